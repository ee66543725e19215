"""What memserve brings along to show itself: one small real chat model and real conversations. Owns no service."""

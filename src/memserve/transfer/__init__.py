"""What one end of a transfer holds and when it ends: state machines without I/O."""

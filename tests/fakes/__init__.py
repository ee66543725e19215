"""Stand-ins for what tests cannot start cheaply: an engine that speaks vLLM's HTTP without computing."""

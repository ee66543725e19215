"""Where a request goes: prompt trees, load, policies. No I/O."""

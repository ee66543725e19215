"""memserve: context caching and disaggregated serving at once, on stock vLLM."""

__version__ = "0.1.0"

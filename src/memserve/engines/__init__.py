"""Adapters between MemPool and serving engines; only here is an engine imported."""

"""Bytes of blocks between two instances: shared memory on one host, data connections between hosts."""

"""One instance's MemPool: decisions of `pool` and `transfer`, bytes of `storage` and `transport`, served to peers."""

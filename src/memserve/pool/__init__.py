"""One pool's decisions: which block is whose, what the index names, what goes when space is short.

Pure and synchronous: no I/O, no threads, no clock but the injected one. The caller holds a lock
around each call and moves the bytes itself.
"""

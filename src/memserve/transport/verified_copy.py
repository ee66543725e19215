"""Copies and checksums of block memory at the speed of memory: what is copied is hashed while it is in the cache.

A second pass over bytes that have left the cache costs about a third of a copy's speed, so the two go together,
piece by piece. Owns the threads that share a long job; short ones run on the caller's. Thread-safe.

    CopyThreads(...) -> run* -> close
"""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import numpy as np
import xxhash

T = TypeVar("T")

PIECE_BYTES = 256 << 10
"""Copied, then hashed: small enough for the second-level cache."""
_SHORT_BYTES = 32 << 10
"""Copied without giving up Python's lock: a few microseconds, less than taking it again costs."""
SHARED_BYTES = 8 << 20
"""A shorter job is done before a second thread has begun."""
MAX_THREADS = 4


def checksum(block: memoryview) -> int:
    """xxh3-64 of one block's bytes."""
    return xxhash.xxh3_64_intdigest(block)


def copy_hashed(target: memoryview, source: memoryview) -> int:
    """Copy `source` into `target`, of equal length; the xxh3-64 of what `target` then holds."""
    num_bytes = target.nbytes
    if num_bytes <= _SHORT_BYTES:
        target[:] = source
        return xxhash.xxh3_64_intdigest(target)
    digest = xxhash.xxh3_64()
    copied, original = np.frombuffer(target, np.uint8), np.frombuffer(source, np.uint8)
    for start in range(0, num_bytes, PIECE_BYTES):
        end = start + PIECE_BYTES
        np.copyto(copied[start:end], original[start:end])
        digest.update(target[start:end])
    return digest.intdigest()


def copy_blocks_hashed(target: memoryview, source: memoryview, *, block_bytes: int) -> tuple[int, ...]:
    """As `copy_hashed` of neighbouring blocks; gives one xxh3-64 for each. More than one: PIECE_BYTES at most."""
    num_bytes = target.nbytes
    if num_bytes == block_bytes:
        return (copy_hashed(target, source),)
    np.copyto(np.frombuffer(target, np.uint8), np.frombuffer(source, np.uint8))
    starts = range(0, num_bytes, block_bytes)
    return tuple([xxhash.xxh3_64_intdigest(target[start : start + block_bytes]) for start in starts])


class CopyThreads:
    """As many threads as this process may use processors, up to MAX_THREADS; the caller's own is one of them."""

    def __init__(self, num_threads: int | None = None, *, shared_bytes: int = SHARED_BYTES) -> None:
        """Jobs of at least `shared_bytes` are shared."""
        self._shared_bytes = shared_bytes
        self._num_threads = num_threads or min(MAX_THREADS, len(os.sched_getaffinity(0)))
        self._helpers = ThreadPoolExecutor(max(1, self._num_threads - 1), thread_name_prefix="memserve-copy")

    def run(self, work: Callable[[T], None], items: Iterable[T], *, num_bytes: int) -> None:
        """`work` on each item once, on several threads when `num_bytes` in all are worth it.

        A helper takes the next item whenever it gets a processor; one that gets none delays nobody.
        Raises what `work` raises, when no thread is at work any more.
        """
        left = iter(tuple(items))
        if self._num_threads < 2 or num_bytes < self._shared_bytes:
            _work_off(work, left)
            return
        helped = [self._helpers.submit(_work_off, work, left) for _ in range(self._num_threads - 1)]
        try:
            _work_off(work, left)
        finally:
            wait([share for share in helped if not share.cancel()])
        for share in helped:
            if not share.cancelled():
                share.result()

    def close(self) -> None:
        """After the last `run`. Idempotent."""
        self._helpers.shutdown()

    def __repr__(self) -> str:
        return f"CopyThreads({self._num_threads})"


def _work_off(work: Callable[[T], None], left: Iterator[T]) -> None:
    """Each `next` of an iterator over a tuple is one step of the interpreter: no item is taken twice."""
    for item in left:
        work(item)

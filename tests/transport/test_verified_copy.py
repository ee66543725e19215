"""Bytes and their checksum in one go, by one thread or by several."""

import os
import threading

import pytest
import xxhash

from memserve.core.errors import TransferFailed
from memserve.transport.verified_copy import PIECE_BYTES, CopyThreads, copy_hashed


@pytest.mark.parametrize("num_bytes", [1, 4096, 40_000, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES - 7])
def test_the_copy_is_whole_and_its_checksum_that_of_all_bytes(num_bytes: int) -> None:
    source, target = os.urandom(num_bytes), bytearray(num_bytes)
    assert copy_hashed(memoryview(target), memoryview(source)) == xxhash.xxh3_64_intdigest(source)
    assert target == source


@pytest.mark.parametrize("num_threads", [1, 2, 4])
def test_each_item_is_worked_on_once_by_whatever_thread(num_threads: int) -> None:
    threads = CopyThreads(num_threads)
    done: list[int] = []
    threads.run(done.append, range(1000), num_bytes=1 << 30)
    threads.close()
    assert sorted(done) == list(range(1000))


def test_a_long_job_is_shared_and_a_short_one_stays_on_its_thread() -> None:
    threads = CopyThreads(2)
    together = threading.Barrier(2, timeout=30)
    threads.run(lambda _: together.wait() and None, range(2), num_bytes=1 << 30)  # hangs when one thread does both
    seen: list[threading.Thread] = []
    threads.run(lambda _: seen.append(threading.current_thread()), range(50), num_bytes=1)
    threads.close()
    assert set(seen) == {threading.current_thread()}


@pytest.mark.parametrize("bad", [0, 17, 99])
def test_a_failure_of_any_share_is_told_when_nothing_is_at_work_any_more(bad: int) -> None:
    threads = CopyThreads(3)
    lock, at_work = threading.Lock(), set[int]()

    def work(item: int) -> None:
        with lock:
            at_work.add(item)
        try:
            if item == bad:
                raise TransferFailed("this one")
        finally:
            with lock:
                at_work.discard(item)

    with pytest.raises(TransferFailed, match="this one"):
        threads.run(work, range(100), num_bytes=1 << 30)
    assert not at_work
    threads.close()

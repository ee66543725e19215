"""Two pools that can share, and a check that nothing of them stays in shared memory."""

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from memserve.instance.mempool import MemPool

CLUSTER = f"instancetest{os.getpid()}"
BLOCK_SIZE = 4
BLOCK_BYTES = 4096

MakePool = Callable[..., MemPool]


def eventually(condition: Callable[[], bool], *, deadline_s: float = 10.0) -> None:
    """The agent's own clockwork makes it true; looks again 50 times a second."""
    pause = threading.Event()
    for _ in range(int(deadline_s * 50)):
        if condition():
            return
        pause.wait(0.02)
    pytest.fail("the condition did not come true in time")


@pytest.fixture
def make_pool() -> Iterator[MakePool]:
    pools: list[MemPool] = []

    def make(instance: str, **changes: object) -> MemPool:
        settings: dict[str, object] = {
            "instance": instance,
            "block_size": BLOCK_SIZE,
            "block_bytes": BLOCK_BYTES,
            "dram_bytes": 16 * BLOCK_BYTES,
            "cluster": CLUSTER,
        }
        pools.append(MemPool(**{**settings, **changes}))  # type: ignore[arg-type]
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()
    assert not list(Path("/dev/shm").glob(f"memserve-{CLUSTER}-*"))  # noqa: S108


@pytest.fixture
def a(make_pool: MakePool) -> MemPool:
    return make_pool("a")


@pytest.fixture
def b(make_pool: MakePool) -> MemPool:
    return make_pool("b")

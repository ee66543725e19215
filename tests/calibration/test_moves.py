"""Moves measured between two real pools."""

from array import array
from pathlib import Path

import pytest

from memserve.calibration.moves import measure_moves
from memserve.calibration.schedule import Moves
from memserve.core.clock import SystemClock
from memserve.core.enums import DataPath
from memserve.instance.mempool import MemPool

CLUSTER = "calibration-test"
SIZE, BYTES = 4, 4096


@pytest.mark.parametrize("path", [DataPath.SHM, DataPath.TCP])
def test_each_prefix_that_is_held_gives_a_sample_of_its_bytes_and_nothing_stays_behind(path: DataPath) -> None:
    tokens = list(range(10 * SIZE))
    with MemPool(instance="held", block_size=SIZE, block_bytes=BYTES, dram_bytes=64 * BYTES, cluster=CLUSTER) as pool:
        blocks = pool.alloc_mem(8)
        pool.insert(array("i", tokens[: 8 * SIZE]), blocks)
        moves = [Moves(num_blocks=n, judges=n == 2) for n in (1, 2, 8, 10)]
        found = measure_moves(pool.info, path=path, cluster=CLUSTER, prompt=tokens, moves=moves, clock=SystemClock())
        assert [(move.num_blocks, sample.num_bytes) for move, sample in found] == [(n, n * BYTES) for n in (1, 2, 8)]
        assert all(sample.seconds > 0 for _, sample in found)
    assert not list(Path("/dev/shm").glob(f"memserve-{CLUSTER}-*"))  # noqa: S108 - POSIX shared memory lies here

"""MemPool.transfer between two processes: room is asked for, bytes go over and are verified, one call.

The blocks are cached prompts, as everything that instances send each other is.
"""

import os
import sys

import numpy as np

from memserve import MemPool, __version__
from memserve.bench.systems.transfer_child import Receiver, num_regions, receive, serve_path, timed
from memserve.core.enums import DataPath

_BLOCK_TOKENS = 16


class MemserveTransfer:
    """The path is the only one that both pools allow."""

    version = __version__
    num_calls = 0

    def open(self, path: str, block_bytes: int, num_blocks: int) -> None:
        cluster = f"bench{os.getpid()}"
        self._receiver = Receiver(
            "memserve_transfer", cluster, path, str(block_bytes), str(2 * num_blocks * block_bytes)
        )
        regions = num_regions(block_bytes, num_blocks)
        self._pool = _pool(cluster, "sender", path, block_bytes, regions * num_blocks * block_bytes)
        self._peer = self._pool.connect(self._receiver.hello)
        data = np.random.default_rng(0).integers(0, 255, num_blocks * block_bytes, dtype=np.uint8)
        self._sources = [self._pool.alloc_mem(num_blocks) for _ in range(regions)]
        for number, source in enumerate(self._sources):
            self._pool.write(source, data.data)
            first = number * num_blocks * _BLOCK_TOKENS
            self._pool.insert(range(first, first + num_blocks * _BLOCK_TOKENS), source)

    def move(self, region: int) -> int:
        arrived = []
        spent = timed(lambda: arrived.append(self._pool.transfer(self._peer, self._sources[region])))
        self._pool.free_mem(arrived[0])
        return spent

    def close(self) -> None:
        self._pool.close()
        self._receiver.close()


def _pool(cluster: str, instance: str, path: str, block_bytes: int, dram_bytes: int) -> MemPool:
    return MemPool(
        instance=instance,
        block_size=_BLOCK_TOKENS,
        block_bytes=block_bytes,
        dram_bytes=dram_bytes,
        cluster=cluster,
        paths=(DataPath(path),),
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        name, way, size, room = sys.argv[1:]
        with _pool(name, "receiver", way, int(size), int(room)) as pool:
            receive(pool.info.endpoint)
    else:
        serve_path(MemserveTransfer)

"""memserve's MemPool as a measured system."""

import os
from collections.abc import Mapping
from time import perf_counter_ns
from typing import Any

import numpy as np

from memserve import MemPool, __version__
from memserve.bench.systems.channel import Handler
from memserve.bench.systems.pool_child import POOL_BYTES, TOKEN_BYTES, Buffer, serve_pool

_BLOCK_TOKENS = 16
_BLOCK_BYTES = _BLOCK_TOKENS * TOKEN_BYTES
_BATCH = 64


class MemservePool:
    """DRAM tier alone."""

    version = __version__

    def __init__(self) -> None:
        self._pool = MemPool(
            instance="bench",
            block_size=_BLOCK_TOKENS,
            block_bytes=_BLOCK_BYTES,
            dram_bytes=POOL_BYTES,
            cluster=f"bench{os.getpid()}",
        )

    def put(self, tokens: list[int], source: Buffer) -> None:
        blocks = self._pool.alloc_mem(len(tokens) // _BLOCK_TOKENS)
        self._pool.write(blocks, source.data)
        self._pool.insert(tokens, blocks)

    def get(self, tokens: list[int], target: Buffer) -> None:
        with self._pool.match(tokens) as found:
            if found.num_tokens != len(tokens):
                raise RuntimeError(f"{found.num_tokens} of {len(tokens)} tokens are cached")
            for number, block in enumerate(found.addresses.blocks):
                part = target[number * _BLOCK_BYTES : (number + 1) * _BLOCK_BYTES]
                np.copyto(part, np.frombuffer(self._pool.view(block), np.uint8))

    def alloc_free(self, request: dict[str, Any]) -> list[int]:
        """Times of alloc_mem and free_mem of one batch of blocks."""
        times = []
        for _ in range(request["count"]):
            start = perf_counter_ns()
            self._pool.free_mem(self._pool.alloc_mem(_BATCH))
            times.append(perf_counter_ns() - start)
        return times


def _make() -> tuple[MemservePool, Mapping[str, Handler]]:
    pool = MemservePool()
    return pool, {"alloc_free": pool.alloc_free}


if __name__ == "__main__":
    serve_pool(_make)

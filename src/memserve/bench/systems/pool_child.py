"""What every measured pool answers: put a prompt's KV, get it back, and what else it can.

Owns the bytes that stand for the engine's memory and the names of prompts. Every put is of a prompt that
was never seen; every get is of one put a little earlier, so that its bytes have left the caches.
"""

from collections.abc import Callable, Mapping
from itertools import count
from time import perf_counter_ns
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from memserve.bench.systems.channel import Handler, System, serve

PROMPT_TOKENS = 512
TOKEN_BYTES = 128 << 10
"""A Llama 3 8B in bfloat16: 32 layers, 8 heads of 128, K and V."""
PROMPT_BYTES = PROMPT_TOKENS * TOKEN_BYTES
POOL_BYTES = 1 << 30
_BEHIND = 4
"""A get is of the prompt that was put this many puts ago."""

Buffer = npt.NDArray[np.uint8]


class MeasuredPool(Protocol):
    """One pool of POOL_BYTES. Raises RuntimeError when bytes are not cached that should be."""

    version: str

    def put(self, tokens: list[int], source: Buffer) -> None:
        """Keep PROMPT_BYTES under these tokens."""
        ...

    def get(self, tokens: list[int], target: Buffer) -> None:
        """Bring them back."""
        ...


class PoolChild:
    """Answers requests for one pool."""

    def __init__(self, pool: MeasuredPool) -> None:
        self._pool = pool
        self._numbers = count()
        self._put = 0
        self._engine = np.random.default_rng(0).integers(0, 255, PROMPT_BYTES, dtype=np.uint8)
        self._target = np.ones(PROMPT_BYTES, np.uint8)

    def put(self, request: dict[str, Any]) -> list[int]:
        """Times to put `count` new prompts."""
        times = []
        for _ in range(request["count"]):
            self._put = next(self._numbers)
            tokens = prompt(self._put)
            start = perf_counter_ns()
            self._pool.put(tokens, self._engine)
            times.append(perf_counter_ns() - start)
        return times

    def get(self, request: dict[str, Any]) -> list[int]:
        """Times to get `count` prompts back; their bytes are compared after the clock has stopped."""
        times = []
        for back in range(request["count"]):
            tokens = prompt(self._put - _BEHIND - back)
            self._target[:: 1 << 12] = 0
            start = perf_counter_ns()
            self._pool.get(tokens, self._target)
            times.append(perf_counter_ns() - start)
            if not np.array_equal(self._target, self._engine):
                raise RuntimeError("the bytes that came back are not those that were put")
        return times


def prompt(number: int) -> list[int]:
    """Tokens of one prompt, different from the first on."""
    return list(range(number * PROMPT_TOKENS, (number + 1) * PROMPT_TOKENS))


def serve_pool(make: Callable[[], tuple[MeasuredPool, Mapping[str, Handler]]]) -> None:
    """Main of a child that measures one pool; the mapping gives further requests it answers."""

    def start() -> System:
        pool, more = make()
        child = PoolChild(pool)
        return System(pool.version, {"put": child.put, "get": child.get, **more})

    serve(start)

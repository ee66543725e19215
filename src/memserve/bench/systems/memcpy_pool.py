"""The limit of a pool in host memory: one copy in and one copy out, nothing else."""

from collections.abc import Mapping

import numpy as np

from memserve.bench.systems.channel import Handler
from memserve.bench.systems.pool_child import POOL_BYTES, PROMPT_BYTES, PROMPT_TOKENS, Buffer, serve_pool


class PlainMemory:
    """A buffer as large as the pools, filled round and round."""

    version = f"NumPy {np.__version__}"

    def __init__(self) -> None:
        self._memory = np.ones((POOL_BYTES // PROMPT_BYTES, PROMPT_BYTES), np.uint8)

    def put(self, tokens: list[int], source: Buffer) -> None:
        np.copyto(self._place(tokens), source)

    def get(self, tokens: list[int], target: Buffer) -> None:
        np.copyto(target, self._place(tokens))

    def _place(self, tokens: list[int]) -> Buffer:
        place: Buffer = self._memory[tokens[0] // PROMPT_TOKENS % len(self._memory)]
        return place


def _make() -> tuple[PlainMemory, Mapping[str, Handler]]:
    return PlainMemory(), {}


if __name__ == "__main__":
    serve_pool(_make)

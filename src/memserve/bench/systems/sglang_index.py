"""SGLang's RadixCache, with pages of one block.

Its keys are array.array("q"), made before the clock starts, so its time is the tree's alone. A match tells
how many tokens are cached; naming their places is a second call and a row of its own.
"""

from array import array
from importlib.metadata import version
from time import perf_counter_ns

import numpy as np
import torch
from sglang.srt.mem_cache.base_prefix_cache import InsertParams, MatchPrefixParams
from sglang.srt.mem_cache.radix_cache import RadixCache, RadixKey

from memserve.bench.prompts import BLOCK_SIZE, Tokens
from memserve.bench.systems.index_child import serve_index


class SglangIndex:
    """A tree without the engine's memory pools, as SGLang's own simulations build it."""

    version = version("sglang")
    forms: tuple[str, ...] = ("array", "list")

    def open(self, num_blocks: int) -> None:
        self._cache = RadixCache.create_simulated(page_size=BLOCK_SIZE)
        self._next = 0

    def insert(self, tokens: Tokens, known: int, form: str) -> int:
        places = torch.arange(self._next, self._next + tokens.size, dtype=torch.int64)
        self._next += tokens.size
        given = _given(tokens, form)
        start = perf_counter_ns()
        key = RadixKey(array("q", given) if form == "list" else given)
        self._cache.insert(InsertParams(key=key, value=places))
        return perf_counter_ns() - start

    def match(self, tokens: Tokens, form: str) -> tuple[int, int]:
        given = _given(tokens, form)
        start = perf_counter_ns()
        key = RadixKey(array("q", given) if form == "list" else given)
        found = self._cache.match_prefix(MatchPrefixParams(key=key))
        return perf_counter_ns() - start, found.device_prefix_len // BLOCK_SIZE

    def variants(self, tokens: Tokens) -> dict[str, int]:
        key = RadixKey(_given(tokens, "array"))
        start = perf_counter_ns()
        found = self._cache.match_prefix(MatchPrefixParams(key=key))
        self._cache.path_device_indices(found.last_device_node)
        return {"match_and_name": perf_counter_ns() - start}


def _given(tokens: Tokens, form: str) -> "array[int] | list[int]":
    return tokens.tolist() if form == "list" else array("q", tokens.astype(np.int64).tobytes())


if __name__ == "__main__":
    serve_index(SglangIndex)

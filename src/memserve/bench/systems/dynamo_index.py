"""Dynamo's Rust RadixTree through its Python binding, block hashing included.

An insert is hashing and applying a ready-made event for the new blocks; writing the event as JSON is
not counted, for in Dynamo another process does that.
"""

import json
from importlib.metadata import version
from time import perf_counter_ns

from dynamo._core import RadixTree, compute_block_hash_for_seq

from memserve.bench.prompts import BLOCK_SIZE, Tokens
from memserve.bench.systems.index_child import serve_index


class DynamoIndex:
    """One worker's blocks."""

    version = version("ai-dynamo-runtime")
    forms: tuple[str, ...] = ("list",)

    def open(self, num_blocks: int) -> None:
        self._tree = RadixTree()
        self._num_events = 0

    def insert(self, tokens: Tokens, known: int, form: str) -> int:
        given = tokens.tolist()
        start = perf_counter_ns()
        hashes = compute_block_hash_for_seq(given, BLOCK_SIZE)
        hashing = perf_counter_ns() - start
        event = self._event(hashes, known)
        start = perf_counter_ns()
        self._tree.apply_event(0, event)
        return hashing + perf_counter_ns() - start

    def match(self, tokens: Tokens, form: str) -> tuple[int, int]:
        given = tokens.tolist()
        start = perf_counter_ns()
        found = self._tree.find_matches(compute_block_hash_for_seq(given, BLOCK_SIZE))
        spent = perf_counter_ns() - start
        return spent, found.scores.get((0, 0), 0)

    def variants(self, tokens: Tokens) -> dict[str, int]:
        given = tokens.tolist()
        start = perf_counter_ns()
        compute_block_hash_for_seq(given, BLOCK_SIZE)
        return {"hash": perf_counter_ns() - start}

    def _event(self, hashes: list[int], known: int) -> bytes:
        """Names of blocks are hashes of their whole prefix, as an engine makes them."""
        names, name = [], 0
        for block in hashes:
            name = hash((name, block)) & (2**63 - 1)
            names.append(name)
        self._num_events += 1
        blocks = [
            {"block_hash": name, "tokens_hash": block}
            for name, block in zip(names[known:], hashes[known:], strict=True)
        ]
        stored = {"parent_hash": names[known - 1] if known else None, "blocks": blocks}
        event = {"event_id": self._num_events, "data": {"stored": stored}, "dp_rank": 0}
        return json.dumps(event).encode()


if __name__ == "__main__":
    serve_index(DynamoIndex)

"""Dynamo's Rust RadixTree as the scheduler's memory, block hashing included, scored and chosen in Python.

`match` is hashing and the look-up, `choose` scores and the choice as well. Events are ready-made, and what they say of
blocks is hashed before: in Dynamo the engine does both.
"""

import json
from collections.abc import Mapping
from importlib.metadata import version
from time import perf_counter_ns

from dynamo._core import RadixTree, compute_block_hash_for_seq

from memserve.bench.prompts import BLOCK_SIZE, Tokens
from memserve.bench.routing import NUM_INSTANCES
from memserve.bench.systems.scheduler_child import serve_scheduler


class DynamoScheduler:
    """One tree for all workers; a decision takes the worker that has the least to compute and to do for others."""

    version = version("ai-dynamo-runtime")
    forms: tuple[str, ...] = ("list",)

    def open(self, *, split: bool, num_blocks: int) -> int:
        self._tree = RadixTree()
        self._num_events = 0
        self._num_workers = NUM_INSTANCES // 2 if split else NUM_INSTANCES
        self._queued = [0] * self._num_workers
        return self._num_workers

    def stored(self, instance: int, prompts: list[Tokens], known: int) -> int:
        events = []
        for tokens in prompts:
            hashes, names = _named(tokens)
            blocks = [
                {"block_hash": name, "tokens_hash": block}
                for name, block in zip(names[known:], hashes[known:], strict=True)
            ]
            told = {"stored": {"parent_hash": names[known - 1] if known else None, "blocks": blocks}}
            events.append(self._event(told))
        return self._apply(instance, events)

    def evicted(self, instance: int, prompts: list[Tokens], kept: int) -> int:
        events = [self._event({"removed": {"block_hashes": _named(tokens)[1][kept:]}}) for tokens in prompts]
        return self._apply(instance, events)

    def decide(self, tokens: Tokens, form: str) -> tuple[dict[str, int], int]:
        given = tokens.tolist()
        start = perf_counter_ns()
        scores = self._tree.find_matches(compute_block_hash_for_seq(given, BLOCK_SIZE)).scores
        found = perf_counter_ns()
        total = len(given) // BLOCK_SIZE
        costs = [queued + total - scores.get((worker, 0), 0) for worker, queued in enumerate(self._queued)]
        chosen = costs.index(min(costs))
        spent = perf_counter_ns() - start
        return {"match": found - start, "choose": spent}, scores.get((chosen, 0), 0)

    def _event(self, data: Mapping[str, object]) -> bytes:
        self._num_events += 1
        return json.dumps({"event_id": self._num_events, "data": data, "dp_rank": 0}).encode()

    def _apply(self, instance: int, events: list[bytes]) -> int:
        start = perf_counter_ns()
        for event in events:
            self._tree.apply_event(instance, event)
        return perf_counter_ns() - start


def _named(tokens: Tokens) -> tuple[list[int], list[int]]:
    """Hashes of the blocks, and their names: hashes of the whole prefix, as an engine makes them."""
    hashes = compute_block_hash_for_seq(tokens.tolist(), BLOCK_SIZE)
    names, name = [], 0
    for block in hashes:
        name = hash((name, block)) & (2**63 - 1)
        names.append(name)
    return hashes, names


if __name__ == "__main__":
    serve_scheduler(DynamoScheduler)

"""What every measured scheduler answers: fill the trees, decide where prompts go, take events in.

Owns the order of the calls and the check that a decision knows what is held. The system itself takes the time.
"""

import gc
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, Protocol

from memserve.bench.prompts import BLOCK_SIZE, Tokens
from memserve.bench.routing import NUM_INSTANCES, Cluster
from memserve.bench.systems.channel import System, serve
from memserve.bench.systems.index_child import rss_bytes


class MeasuredScheduler(Protocol):
    """One scheduler over 64 instances. Times are in nanoseconds and exclude making the input."""

    version: str
    forms: tuple[str, ...]

    def open(self, *, split: bool, num_blocks: int) -> int:
        """Start with nothing known, half of the instances for prefill if `split`; how many compute prompts."""
        ...

    def stored(self, instance: int, prompts: list[Tokens], known: int) -> int:
        """Time to take in that the instance holds these prompts, of which it held the first `known` blocks."""
        ...

    def evicted(self, instance: int, prompts: list[Tokens], kept: int) -> int:
        """Time to take in that only the first `kept` blocks of these prompts are left."""
        ...

    def decide(self, tokens: Tokens, form: str) -> tuple[dict[str, int], int]:
        """Times by operation: `match` is who holds how much, others go on to the scores of all instances and a choice.

        And how many blocks of the prompt somebody was found to hold.
        """
        ...


class SchedulerChild:
    """Answers requests for one system."""

    def __init__(self, scheduler: MeasuredScheduler) -> None:
        self._scheduler = scheduler
        self._cluster = Cluster()
        self._numbers: Iterator[int] = count()
        self._num_instances = NUM_INSTANCES
        self._rss = 0

    def open(self, request: dict[str, Any]) -> list[str]:
        """The forms of input that the system takes."""
        self._cluster = Cluster(scale=request["scale"])
        self._num_instances = self._scheduler.open(split=request["split"], num_blocks=self._cluster.num_blocks)
        self._numbers = count(self._cluster.num_prompts)
        self._cluster.tokens(0)  # what makes tokens is loaded before memory is looked at
        gc.collect()
        self._rss = rss_bytes()
        return list(self._scheduler.forms)

    def fill(self, _request: dict[str, Any]) -> float:
        """Tell of all that is held; bytes that each different block has added to the process."""
        for number in range(self._cluster.num_prompts):
            tokens = self._cluster.tokens(number)
            for instance in self._cluster.holders(number, self._num_instances):
                self._scheduler.stored(instance, [tokens], 0)
        gc.collect()
        return (rss_bytes() - self._rss) / self._cluster.num_blocks

    def ask(self, request: dict[str, Any]) -> list[dict[str, int]]:
        """Times to decide where these prompts go, by operation."""
        times = []
        for number in request["numbers"]:
            spent, found = self._scheduler.decide(self._cluster.tokens(number), request["form"])
            if found != self._cluster.prompt_blocks:
                raise RuntimeError(f"{found} of {self._cluster.prompt_blocks} blocks of a prompt found")
            times.append(spent)
        return times

    def events(self, request: dict[str, Any]) -> dict[str, int]:
        """Times to take in one batch of new prompts, and that their own part is evicted again."""
        prompts = [self._cluster.tokens(next(self._numbers)) for _ in range(request["count"])]
        instance, shared = request["instance"] % self._num_instances, self._cluster.prompt_blocks // 2
        self._scheduler.stored(instance, [tokens[: shared * BLOCK_SIZE] for tokens in prompts], 0)
        return {
            "stored": self._scheduler.stored(instance, prompts, shared),
            "evicted": self._scheduler.evicted(instance, prompts, shared),
        }


def serve_scheduler(make: Callable[[], MeasuredScheduler]) -> None:
    """Main of a child that measures one scheduler."""

    def start() -> System:
        scheduler = make()
        child = SchedulerChild(scheduler)
        gc.disable()  # as for the indexes: a collection goes between calls
        names = ("open", "fill", "ask", "events")
        return System(scheduler.version, {name: getattr(child, name) for name in names})

    serve(start)

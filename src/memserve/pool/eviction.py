"""Who goes first when space is short: one small class per policy, chosen by name.

A ranking orders the nodes of the index by their usage; the lowest rank goes first. A rank may only grow
while a node lives, and is never above its parent's: that makes leaves go first. Most policies are one
ranking; `adaptive` asks several and learns whose advice it regrets least.
"""

from abc import ABC, abstractmethod
from collections import OrderedDict
from math import exp
from typing import Protocol

import xxhash

from memserve.core.errors import ConfigError

_LEARNING_RATE = 0.1
_DISCOUNT = 0.005
"""What a regret has shrunk to after as many evictions as there are cached blocks."""
_LEAST_WEIGHT = 0.001
"""Every expert is heard now and then, or it could never show that the habits have changed."""


class Usage(Protocol):
    """What is known about a node's use. Ticks grow with each use; a parent's are above its children's."""

    @property
    def used_at(self) -> int: ...
    @property
    def inserted_at(self) -> int:
        """Tick of the last insert at or below the node."""
        ...

    @property
    def hits(self) -> int:
        """Matches and inserts that went through the node."""
        ...


class Ranking(Protocol):
    def rank(self, usage: Usage) -> tuple[int, ...]:
        """The lowest goes first."""
        ...


class EvictionPolicy(Protocol):
    """Who goes first, by one ranking or more. What it is told of evictions and returns, it may ignore."""

    def rankings(self) -> tuple[Ranking, ...]:
        """The same ones, in the same order, all its life."""
        ...

    def choose(self) -> int:
        """By which of the rankings the next one goes."""
        return 0

    def evicted(self, prefix: bytes | memoryview, *, num_blocks: int, num_left: int) -> None:
        """The last block of `prefix` and what followed it, `num_blocks` in all, went by the ranking chosen last."""
        return

    def returned(self, prefix: bytes | memoryview) -> None:
        """The last block of `prefix` had to be stored anew."""
        return


class SingleRanking(EvictionPolicy, ABC):
    """A policy that is its own and only ranking."""

    @abstractmethod
    def rank(self, usage: Usage) -> tuple[int, ...]:
        """The lowest goes first."""

    def rankings(self) -> tuple[Ranking, ...]:
        return (self,)


class LeastRecentlyUsed(SingleRanking):
    def rank(self, usage: Usage) -> tuple[int, ...]:
        return (usage.used_at,)


class FirstInFirstOut(SingleRanking):
    """By the last insert at or below a node, so that a prefix is not older than what continues it."""

    def rank(self, usage: Usage) -> tuple[int, ...]:
        return (usage.inserted_at,)


class LeastFrequentlyUsed(SingleRanking):
    """By the number of uses, the least recent first among equals."""

    def rank(self, usage: Usage) -> tuple[int, ...]:
        return (usage.hits, usage.used_at)


class Adaptive(EvictionPolicy):
    """LRU and LFU in turns, by weights that follow regret (Ditto, SOSP 2023).

    A bounded history names what was evicted lately, and by whose advice. When such a prefix has to be stored
    anew, its adviser's weight is multiplied by exp(-0.1 * d^t / p). t counts evictions since then, d is
    0.005^(1/n) for n cached blocks, so a fault that shows soon weighs most. p is the adviser's weight at that
    time: who is asked rarely errs rarely, and without the division (as in EXP3) both would keep about half
    of the turns, which is no better than LRU alone. Turns go in proportion to the weights, without chance, so
    that the same calls evict the same blocks.
    """

    def __init__(self) -> None:
        self._rankings: tuple[Ranking, ...] = (LeastRecentlyUsed(), LeastFrequentlyUsed())
        self._weights = [1 / len(self._rankings)] * len(self._rankings)
        self._turns = [0.0] * len(self._rankings)
        self._chosen = 0
        self._num_evicted = 0
        # Prefix -> who advised it and the number of the eviction, oldest first.
        self._history: OrderedDict[int, tuple[int, int, float]] = OrderedDict()
        self._size = 1

    def __repr__(self) -> str:
        named = zip(self._rankings, self._weights, strict=True)
        return f"Adaptive({', '.join(f'{type(ranking).__name__} {weight:.2f}' for ranking, weight in named)})"

    def rankings(self) -> tuple[Ranking, ...]:
        return self._rankings

    def choose(self) -> int:
        self._turns = [turn + weight for turn, weight in zip(self._turns, self._weights, strict=True)]
        self._chosen = self._turns.index(max(self._turns))
        self._turns[self._chosen] -= 1.0
        return self._chosen

    def evicted(self, prefix: bytes | memoryview, *, num_blocks: int, num_left: int) -> None:
        self._num_evicted += 1
        self._size = num_blocks + num_left
        key = xxhash.xxh3_64_intdigest(prefix)
        self._history[key] = (self._chosen, self._num_evicted, self._weights[self._chosen])
        self._history.move_to_end(key)
        while len(self._history) > self._size:
            self._history.popitem(last=False)

    def returned(self, prefix: bytes | memoryview) -> None:
        found = self._history.pop(xxhash.xxh3_64_intdigest(prefix), None) if self._history else None
        if found is None:
            return
        adviser, number, share = found
        regret = _DISCOUNT ** ((self._num_evicted - number) / self._size)
        self._weights[adviser] *= exp(-_LEARNING_RATE * regret / share)
        total = sum(self._weights)
        self._weights = [max(weight / total, _LEAST_WEIGHT) for weight in self._weights]


_POLICIES: dict[str, type[EvictionPolicy]] = {
    "lru": LeastRecentlyUsed,
    "fifo": FirstInFirstOut,
    "lfu": LeastFrequentlyUsed,
    "adaptive": Adaptive,
}


def eviction_policy(name: str) -> EvictionPolicy:
    """The policy of this name. Raises ConfigError that lists the names there are."""
    if name not in _POLICIES:
        raise ConfigError(f'no eviction policy "{name}"; choose one of {", ".join(_POLICIES)}')
    return _POLICIES[name]()

"""In which order nodes of the index lose blocks, and what a policy that uses such orders must answer.

A ranking orders the nodes by their usage; the lowest rank goes first. A rank may only grow while a node lives,
and is never above its parent's: that makes leaves go first. Most policies are one ranking.
"""

from abc import ABC, abstractmethod
from typing import Protocol

from memserve.wire.identity import Namespace


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
    """Who goes first, by one ranking or more. What it is told of, it may ignore."""

    def rankings(self) -> tuple[Ranking, ...]:
        """The same ones, in the same order, all its life."""
        ...

    def choose(self) -> int:
        """By which of the rankings the next one goes."""
        return 0

    def looked_up(self, prompt: bytes, *, width: int, namespace: Namespace) -> None:
        """Whole blocks of `width` bytes of tokens are asked for, whether or not they are there."""
        return

    def stored(self, prompt: bytes, *, width: int, namespace: Namespace) -> None:
        """All of these blocks are there now."""
        return

    def evicted(self, num_blocks: int) -> None:
        """Of so many blocks, some had to go."""
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

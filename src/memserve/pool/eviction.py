"""Who goes first when space is short: one small class per policy, chosen by name.

A policy ranks a node of the index by its usage; the lowest rank goes first. A rank may only grow
while a node lives, and is never above its parent's: that makes leaves go first.
"""

from typing import Protocol

from memserve.core.errors import ConfigError


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


class EvictionPolicy(Protocol):
    def rank(self, usage: Usage) -> tuple[int, ...]:
        """The lowest goes first."""
        ...


class LeastRecentlyUsed:
    def rank(self, usage: Usage) -> tuple[int, ...]:
        return (usage.used_at,)


class FirstInFirstOut:
    """By the last insert at or below a node, so that a prefix is not older than what continues it."""

    def rank(self, usage: Usage) -> tuple[int, ...]:
        return (usage.inserted_at,)


class LeastFrequentlyUsed:
    """By the number of uses, the least recent first among equals."""

    def rank(self, usage: Usage) -> tuple[int, ...]:
        return (usage.hits, usage.used_at)


_POLICIES: dict[str, type[EvictionPolicy]] = {
    "lru": LeastRecentlyUsed,
    "fifo": FirstInFirstOut,
    "lfu": LeastFrequentlyUsed,
}


def eviction_policy(name: str) -> EvictionPolicy:
    """The policy of this name. Raises ConfigError that lists the names there are."""
    if name not in _POLICIES:
        raise ConfigError(f'no eviction policy "{name}"; choose one of {", ".join(_POLICIES)}')
    return _POLICIES[name]()

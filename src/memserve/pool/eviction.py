"""Who goes first when space is short: the policies there are, by name."""

from memserve.core.errors import ConfigError
from memserve.pool.adaptive import Adaptive
from memserve.pool.ranking import EvictionPolicy, FirstInFirstOut, LeastFrequentlyUsed, LeastRecentlyUsed

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

"""How often a prefix was asked for lately: a counter per prefix that fades, for a bounded number of prefixes.

A heavy hitter is a prefix that many prompts share, such as a system prompt (TokenLake, arXiv 2508.17219, replicates
such segments and only such). Owns the counters and nothing that follows from them.
"""

from collections import OrderedDict
from math import exp

import xxhash

from memserve.core.clock import Clock
from memserve.wire.identity import Namespace

FADES_IN_S = 120.0
_MAX_PREFIXES = 4096


class PrefixHeat:
    def __init__(self, clock: Clock, *, max_prefixes: int = _MAX_PREFIXES) -> None:
        """Beyond `max_prefixes` the one that was not asked for for longest is forgotten."""
        self._clock = clock
        self._max_prefixes = max_prefixes
        self._counts: OrderedDict[int, tuple[float, float]] = OrderedDict()

    def asked(self, prefix: bytes, namespace: Namespace) -> float:
        """Once more: how often in the last FADES_IN_S seconds, this time included."""
        now = self._clock.now()
        key = xxhash.xxh3_64_intdigest(prefix, seed=xxhash.xxh32_intdigest(namespace))
        counts, count = self._counts, 1.0
        known = counts.get(key)
        if known is not None:
            count += known[0] * exp((known[1] - now) / FADES_IN_S)
            counts.move_to_end(key)
        elif len(counts) >= self._max_prefixes:
            counts.popitem(last=False)
        counts[key] = count, now
        return count

    def __len__(self) -> int:
        return len(self._counts)

    def __repr__(self) -> str:
        return f"PrefixHeat({len(self._counts)} prefixes)"

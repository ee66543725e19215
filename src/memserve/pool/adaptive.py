"""The eviction policy that learns whether LRU or LFU serves a pool better.

Owns the experts' weights and, for each, a shadow: a sample of what the pool would hold had this expert always
decided. A look-up or insert takes one to three microseconds longer a block in pools of up to 4,096 blocks, about a
tenth of that in one of 100,000.
"""

from math import exp

from memserve.pool.ranking import EvictionPolicy, LeastFrequentlyUsed, LeastRecentlyUsed, Ranking
from memserve.pool.shadow import MAX_NAMES, PrefixSample, Shadow
from memserve.wire.identity import Namespace

_LEARNING_RATE = 1500.0
"""Per share of the pool that an expert would have missed and another would not."""
_MEMORY = 10.0
"""Turnovers of the pool after which a regret has shrunk to 1 / e."""
_DOUBT = 0.005
"""What LRU must be better by: a wrong choice of LRU costs what LFU has learnt, a wrong one of LFU a turnover."""
_SHRINKING = 0.999
"""Of the largest number of blocks seen, at each eviction."""


class Adaptive(EvictionPolicy):
    """LRU and LFU in turns, by weights that follow regret, after Ditto (SOSP 2023).

    An expert regrets each block that is asked for and that it would have let go while the other kept it. Ditto sees
    only what was evicted in truth, by a history as long as the cache, and discounts a regret by the time since then;
    what comes back only after several turnovers, which is where LFU is ahead in small pools, stays invisible to it.
    The shadows see both experts' faults all the time, so nothing has to be tried out in the pool. Weights are
    exp(-1500 * r) for r the regret in shares of the pool, discounted over ten turnovers. Turns go in proportion to
    the weights, without chance, so that the same calls evict the same blocks.
    """

    def __init__(self) -> None:
        self._rankings: tuple[Ranking, ...] = (LeastRecentlyUsed(), LeastFrequentlyUsed())
        self._shadows = tuple(map(Shadow, self._rankings))
        self._sample = PrefixSample()
        self._regrets = [0.0] * len(self._rankings)
        self._turns = [0.0] * len(self._rankings)
        self._capacity: float | None = None
        """Blocks of the pool; None until it was full once."""

    def __repr__(self) -> str:
        named = zip(self._rankings, self._weights(), strict=True)
        return f"Adaptive({', '.join(f'{type(ranking).__name__} {weight:.2f}' for ranking, weight in named)})"

    def rankings(self) -> tuple[Ranking, ...]:
        return self._rankings

    def choose(self) -> int:
        self._turns = [turn + weight for turn, weight in zip(self._turns, self._weights(), strict=True)]
        chosen = self._turns.index(max(self._turns))
        self._turns[chosen] -= 1.0
        return chosen

    def looked_up(self, prompt: bytes, *, width: int, namespace: Namespace) -> None:
        names = self._sample.names(prompt, width=width, namespace=namespace)
        kept = [shadow.looked_up(names) for shadow in self._shadows]
        if self._capacity is None or not names:
            return
        most = [any(held) for held in zip(*kept, strict=True)]
        fading = exp(-len(names) / (_MEMORY * self._names_held()))
        for expert, held in enumerate(kept):
            missed = (sum(most) - sum(held)) / self._names_held()
            self._regrets[expert] = self._regrets[expert] * fading + missed

    def stored(self, prompt: bytes, *, width: int, namespace: Namespace) -> None:
        names = self._sample.names(prompt, width=width, namespace=namespace)
        capacity = None if self._capacity is None else round(self._names_held())
        for shadow in self._shadows:
            shadow.stored(names, capacity=capacity)
        if self._capacity is None and max(map(len, self._shadows)) > 2 * MAX_NAMES:
            self._halve()

    def evicted(self, num_blocks: int) -> None:
        # Blocks of running requests come and go, a pool seldom shrinks: so does this, slowly.
        self._capacity = max((self._capacity or 0.0) * _SHRINKING, float(num_blocks))
        while self._names_held() > MAX_NAMES:
            self._halve()

    def _names_held(self) -> float:
        """How many names a shadow may hold."""
        return max((self._capacity or 0.0) * self._sample.share, 1.0)

    def _halve(self) -> None:
        self._sample.halve()
        for shadow in self._shadows:
            shadow.keep(self._sample)

    def _weights(self) -> list[float]:
        recency, frequency = self._regrets
        regrets = (recency + _DOUBT, frequency)
        weights = [exp(-_LEARNING_RATE * (regret - min(regrets))) for regret in regrets]
        return [weight / sum(weights) for weight in weights]

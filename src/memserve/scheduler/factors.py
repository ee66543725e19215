"""Factors by which predictions were off, per key and over all keys: what a profile cannot know, learnt while serving.

Each is a running mean in the logarithm. A key that was not seen yet gets the factor of all together, and what is seen
of it moves it away from that by degrees: one slow answer does not make a slow instance. Bounded: the key that was
learnt first goes first.
"""

from collections import OrderedDict
from collections.abc import Hashable
from math import exp, log

_LEAST_WEIGHT = 0.1
_OTHERS = 4
"""How many observations of a key the experience with all others counts for."""
_MAX_LOG = log(1e4)
_FADING = 0.99
_MAX_KEYS = 8192


class Factors:
    def __init__(self, *, prior: int = 1) -> None:
        """`prior` is how many observations the predictions themselves count for: none where they are a mere guess."""
        self._prior = prior
        self._means: OrderedDict[Hashable, tuple[float, int]] = OrderedDict({None: (0.0, 0)})
        self.usual = 1.0
        """Of all keys together, as `of(None)`."""

    def of(self, key: Hashable) -> float:
        """1.0 while nothing was learnt."""
        known = self._means.get(key)
        return self.usual if known is None else exp(known[0])

    def learn(self, key: Hashable, factor: float) -> None:
        """`factor` is what really happened over what the terms alone predict."""
        seen = min(max(log(factor), -_MAX_LOG), _MAX_LOG)
        for name, prior in ((None, self._prior), (key, _OTHERS)):
            mean, count = self._means.get(name) or (self._means[None][0], 0)
            weight = max(_LEAST_WEIGHT, 1 / (count + 1 + prior))
            self._means[name] = mean + weight * (seen - mean), count + 1
        self._means.move_to_end(None)
        self._keep_usual()
        if len(self._means) > _MAX_KEYS:
            self._means.popitem(last=False)

    @property
    def is_guess(self) -> bool:
        """Neither measured beforehand nor learnt yet."""
        return not self._prior and not self._means[None][1]

    def at_least(self, factor: float) -> None:
        """Something is still under way after this many times what was predicted: better than a mere guess."""
        if self.is_guess:
            self._means[None] = max(self._means[None][0], min(log(factor), _MAX_LOG)), 0
            self._keep_usual()

    def fade(self, key: Hashable) -> None:
        """Believe a bad experience a little less, so that it is tried again some day."""
        for name in (key, None):
            mean, count = self._means.get(name, (0.0, 0))
            if mean > 0:
                self._means[name] = mean * _FADING, count
        self._keep_usual()

    def _keep_usual(self) -> None:
        self.usual = exp(self._means[None][0])

    def __repr__(self) -> str:
        return f"Factors(x{self.of(None):.2f} over {len(self._means) - 1} keys)"

"""Factors by which predictions were off, per key and over all keys: what a profile cannot know, learnt while serving.

Each is a running mean in the logarithm: of all keys together, and for each key how far it is off from that. A key that
was not seen yet gets the factor of all, and what is seen of it moves it away by degrees: one slow answer does not make
a slow instance. What the others teach later holds for it, too: an instance whose first answer was slow and that is
asked no more is not taken for slow for good. Bounded: the key that was learnt first goes first.
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
        self._all = 0.0, 0
        self._offsets: OrderedDict[Hashable, tuple[float, int]] = OrderedDict()
        self.usual = 1.0
        """Of all keys together."""

    def of(self, key: Hashable) -> float:
        """1.0 while nothing was learnt."""
        return self.usual * self.own(key)

    def own(self, key: Hashable) -> float:
        """How many times the usual factor it has; 1.0 while it was not seen."""
        known = self._offsets.get(key)
        return 1.0 if known is None else exp(known[0])

    def learn(self, key: Hashable, factor: float) -> None:
        """`factor` is what really happened over what the terms alone predict."""
        seen = min(max(log(factor), -_MAX_LOG), _MAX_LOG)
        self._all = _moved(self._all, seen, prior=self._prior)
        self._offsets[key] = _moved(self._offsets.get(key, (0.0, 0)), seen - self._all[0], prior=_OTHERS)
        self._keep_usual()
        if len(self._offsets) > _MAX_KEYS:
            self._offsets.popitem(last=False)

    @property
    def is_guess(self) -> bool:
        """Neither measured beforehand nor learnt yet."""
        return not self._prior and not self._all[1]

    def at_least(self, factor: float) -> None:
        """Something is still under way after this many times what was predicted: better than a mere guess."""
        if self.is_guess:
            self._all = max(self._all[0], min(log(factor), _MAX_LOG)), 0
            self._keep_usual()

    def fade(self, key: Hashable) -> None:
        """Believe a bad experience a little less, so that it is tried again some day."""
        mean, count = self._all
        self._all = _faded(mean), count
        if key in self._offsets:
            offset, count = self._offsets[key]
            self._offsets[key] = _faded(offset), count
        self._keep_usual()

    def _keep_usual(self) -> None:
        self.usual = exp(self._all[0])

    def __repr__(self) -> str:
        return f"Factors(x{self.usual:.2f} over {len(self._offsets)} keys)"


def _moved(known: tuple[float, int], seen: float, *, prior: int) -> tuple[float, int]:
    mean, count = known
    return mean + max(_LEAST_WEIGHT, 1 / (count + 1 + prior)) * (seen - mean), count + 1


def _faded(mean: float) -> float:
    return mean * _FADING if mean > 0 else mean

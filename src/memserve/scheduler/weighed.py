"""One group, weighed for one phase: the scores, the choice among them, and each candidate as it was when asked for.

Owns what a choice is: the lowest score, at random among equals.
"""

from collections.abc import Sequence
from random import Random
from typing import Protocol

import msgspec
import numpy as np

from memserve.core.enums import Phase
from memserve.core.ids import InstanceId
from memserve.scheduler.decision import MAX_CANDIDATES, Candidate
from memserve.scheduler.holdings import tokens_of
from memserve.scheduler.load_table import GroupLoads, Numbers
from memserve.scheduler.places import Places
from memserve.scheduler.prompt_tree import Level
from memserve.scheduler.score_terms import ROUNDED, ScoredAlike

Best = tuple[float, int]
"""A score, and the place of who has it."""


class Scores(Protocol):
    def all(self) -> Numbers:
        """Of everybody, in order."""
        ...

    def few_best(self) -> list[ScoredAlike] | None:
        """Whose scores are as good as the lowest; None where everybody has to be looked at."""
        ...

    def as_good_as(self, score: float) -> float:
        """The highest score that is taken to be equal to this one."""
        ...


class GivenScores:
    """Those that a policy gave."""

    def __init__(self, scores: Numbers) -> None:
        self._scores = scores

    def all(self) -> Numbers:
        return self._scores

    def few_best(self) -> None:
        return None

    def as_good_as(self, score: float) -> float:
        return max(score * ROUNDED, score)


class Weighed(msgspec.Struct, frozen=True, kw_only=True):
    places: Places
    phase: Phase
    levels: Sequence[Level]
    loads: GroupLoads
    scores: Scores

    def best(self, random: Random, *, besides: InstanceId | None = None) -> Best:
        """One of those with the lowest score; of the others, where there are some, when one is left out."""
        few = self.scores.few_best() if besides is None else None
        if few is None:
            return self._best_of_all(random, besides)
        score, places = few[0] if len(few) == 1 else few[int(random.random() * len(few))]
        count = places.bit_count()
        for _ in range(int(random.random() * count) if count > 1 else 0):
            places &= places - 1
        return score, (places & -places).bit_length() - 1

    def _best_of_all(self, random: Random, besides: InstanceId | None) -> Best:
        scores, index = self.scores.all(), self.places.group.index
        if besides is not None and besides in index and len(scores) > 1:
            scores = scores.copy()
            scores[index[besides]] = np.inf
        least = scores.item(scores.argmin())
        equals = (scores <= self.scores.as_good_as(least)).nonzero()[0].tolist()
        place = equals[0] if len(equals) == 1 else equals[int(random.random() * len(equals))]
        return scores.item(place), place

    def candidate(self, best: Best) -> Candidate:
        score, place = best
        group = self.places.group
        queued, wait_s, *_ = self.loads.one(place)
        return Candidate(
            instance=group.instances[place],
            role=group.roles[place],
            phase=self.phase,
            matched_tokens=tokens_of(self.levels, self.places.bits[place]),
            queued_tokens=int(queued),
            wait_s=wait_s,
            score=score,
        )

    def listed(self, chosen: Best) -> list[Candidate]:
        """The chosen one and after it the next best."""
        scores = self.scores.all()
        order = scores.argsort(kind="stable")[:MAX_CANDIDATES].tolist()
        others = [(scores.item(place), place) for place in order if place != chosen[1]]
        return [self.candidate(best) for best in (chosen, *others[: MAX_CANDIDATES - 1])]

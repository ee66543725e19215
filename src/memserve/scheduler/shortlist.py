"""Who was weighed for a decision: kept as arrays, told as Candidates when somebody asks.

Most decisions are looked at by nobody; those that are remembered keep only the best of each phase.
"""

from collections.abc import Iterator, Sequence
from typing import overload

import msgspec
import numpy as np
import numpy.typing as npt

from memserve.core.enums import Phase, Role
from memserve.core.ids import InstanceId
from memserve.scheduler.decision import MAX_CANDIDATES, Candidate
from memserve.scheduler.load import Numbers


class Ranking(msgspec.Struct, frozen=True, kw_only=True):
    """The chosen one of a group, then the next best; entry i of each array belongs to `order[i]`."""

    instances: tuple[InstanceId, ...]
    """Of the whole group."""
    roles: tuple[Role, ...]
    phase: Phase
    order: npt.NDArray[np.intp]
    """Places in the group."""
    matched: npt.NDArray[np.int64]
    queued: Numbers
    wait_s: Numbers
    scores: Numbers

    def candidates(self) -> list[Candidate]:
        columns = (self.order, self.matched, self.queued, self.wait_s, self.scores)
        return [
            Candidate(
                instance=self.instances[place],
                role=self.roles[place],
                phase=self.phase,
                matched_tokens=matched,
                queued_tokens=int(queued),
                wait_s=wait_s,
                score=score,
            )
            for place, matched, queued, wait_s, score in zip(*(column.tolist() for column in columns), strict=True)
        ]


class Shortlist(Sequence[Candidate]):
    """Of each phase the chosen one, then the next best, up to MAX_CANDIDATES; first phase first."""

    def __init__(self, *rankings: Ranking) -> None:
        self._rankings = rankings

    def __iter__(self) -> Iterator[Candidate]:
        return (candidate for ranking in self._rankings for candidate in ranking.candidates())

    def __len__(self) -> int:
        return sum(len(ranking.order) for ranking in self._rankings)

    @overload
    def __getitem__(self, index: int) -> Candidate: ...
    @overload
    def __getitem__(self, index: slice) -> list[Candidate]: ...
    def __getitem__(self, index: int | slice) -> Candidate | list[Candidate]:
        return [*self][index]

    def __repr__(self) -> str:
        return f"Shortlist({list(self)})"


def best_places(scores: Numbers, chosen: int) -> npt.NDArray[np.intp]:
    """The chosen place and after it those with the next lowest scores."""
    order = scores.argsort(kind="stable")[:MAX_CANDIDATES]
    if order[0] == chosen:
        return order
    others = [place for place in order.tolist() if place != chosen]
    return np.array([chosen, *others[: MAX_CANDIDATES - 1]], dtype=np.intp)

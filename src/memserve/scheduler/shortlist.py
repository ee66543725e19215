"""Who was weighed for a decision, told when somebody asks: most decisions are looked at by nobody."""

from collections.abc import Iterator, Sequence
from typing import overload

from memserve.scheduler.decision import Candidate
from memserve.scheduler.weighed import Best, Weighed


class Shortlist(Sequence[Candidate]):
    """Of each phase the chosen one, then the next best, up to MAX_CANDIDATES; first phase first."""

    def __init__(self, *parts: tuple[Weighed, Best]) -> None:
        """Of each phase all, and the chosen one."""
        self._parts = parts

    def __iter__(self) -> Iterator[Candidate]:
        return (candidate for weighed, chosen in self._parts for candidate in weighed.listed(chosen))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @overload
    def __getitem__(self, index: int) -> Candidate: ...
    @overload
    def __getitem__(self, index: slice) -> list[Candidate]: ...
    def __getitem__(self, index: int | slice) -> Candidate | list[Candidate]:
        return [*self][index]

    def __repr__(self) -> str:
        return f"Shortlist({[*self]})"

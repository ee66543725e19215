"""What a study leaves behind: points of lines over one quantity, with the spread of what was measured there.

Owns the shape of the JSON file, the same for every study, and the quantiles.
"""

from collections import defaultdict
from collections.abc import Sequence
from enum import StrEnum
from itertools import pairwise

import msgspec
import numpy as np

from memserve.bench.records import Missing, Run


class Size(StrEnum):
    """How much is measured."""

    QUICK = "quick"
    """At most about two minutes, with the start of the engines."""
    FULL = "full"


class Quantity(msgspec.Struct, frozen=True, kw_only=True):
    """What is counted along an axis."""

    name: str
    unit: str

    @property
    def label(self) -> str:
        return f"{self.name} ({self.unit})"


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One quantity of one line at one place: median and quartiles over what was measured."""

    series: str
    x: float
    quantity: str
    """Name of one of the report's quantities."""
    p50: float
    p25: float
    p75: float
    count: int


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What a study asks, for the axes of its figure."""

    name: str
    title: str
    x: Quantity
    quantities: tuple[Quantity, ...]


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came out."""

    points: tuple[Point, ...]
    findings: tuple[str, ...] = ()
    """Sentences that follow from the points alone, for the report."""
    missing: tuple[Missing, ...] = ()


class StudyReport(Run, frozen=True, kw_only=True):
    """A finished study."""

    question: Question
    size: Size
    seed: int
    setting: str
    """What served, in words."""
    results: tuple[Point, ...]
    findings: tuple[str, ...] = ()


class Samples:
    """Values as they come, by line, place and quantity."""

    def __init__(self) -> None:
        self._values: defaultdict[tuple[str, float, str], list[float]] = defaultdict(list)

    def add(self, series: str, x: float, **values: float) -> None:
        """`values` by name of their quantity."""
        for quantity, value in values.items():
            self._values[series, x, quantity].append(value)

    def points(self) -> tuple[Point, ...]:
        return tuple(_point(*key, values) for key, values in self._values.items())

    def __repr__(self) -> str:
        return f"Samples({sum(map(len, self._values.values()))} values at {len(self._values)} places)"


def crossover(points: Sequence[Point], *, quantity: str, below: str, above: str) -> float | None:
    """The x from which on the line `below` stays below the line `above`, between two points along a straight line.

    0 when it is below everywhere, None when it is not below at the last place that both have.
    """
    lines = [{p.x: p.p50 for p in points if (p.series, p.quantity) == (s, quantity)} for s in (below, above)]
    gaps = [(x, lines[0][x] - lines[1][x]) for x in sorted(lines[0].keys() & lines[1].keys())]
    if not gaps or gaps[-1][1] >= 0:
        return None
    for (x, gap), (next_x, next_gap) in reversed(list(pairwise(gaps))):
        if gap >= 0:
            return x + (next_x - x) * gap / (gap - next_gap)
    return 0.0


def _point(series: str, x: float, quantity: str, values: Sequence[float]) -> Point:
    p25, p50, p75 = (round(float(value), 6) for value in np.percentile(values, (25, 50, 75)))
    return Point(series=series, x=x, quantity=quantity, p50=p50, p25=p25, p75=p75, count=len(values))

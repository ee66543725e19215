"""The numbers of the load ledger: those of an instance side by side, and so that all instances are weighed at once.

Owns which instance has which place in the table (its column, as the rows of all are told), and who is at rest. Single
numbers are changed through a memoryview of each instance, which takes half the time. What follows from these numbers
and the time alone is told of a copy of them: GroupLoads.
"""

from math import exp, inf
from struct import Struct

import numpy as np
import numpy.typing as npt

from memserve.core.ids import InstanceId

Numbers = npt.NDArray[np.float64]

RECENT_S = 10.0
"""Over which the share of time spent on prefills fades."""

FEW = 8
"""So many instances are looked at faster one after the other than all at once."""
_MAX_SHARE = 0.9
_MAX_GROUPS = 64
ENDS_AT, LEAST_S, SPENT, TOKENS, WAIT_S, PACE, BESIDE, SHARE, DECODES, CONTEXT, ONE = range(11)
"""Rows. Queued prefills take until ENDS_AT, and no less than LEAST_S from now: all but the first one of them. What was
SPENT on prefills is noted as if it had been spent at one point in time, the same for all. TOKENS are queued: to
compute, to take in, to produce. WAIT_S and SHARE follow from these and the time. DECODES are answers to produce and not
complete, CONTEXT their tokens, prompts included. PACE is what prefills take over what the terms alone predict, BESIDE
that times DECODES."""
FORM = slice(WAIT_S, ONE + 1)
"""Rows that scores are made of."""
_IDLE = [-inf, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0]
_KINDS = len(_IDLE)
_LOAD = Struct(f"={_KINDS}d")


OneLoad = tuple[float, float, float, float, float, float]
"""Tokens queued and seconds queued, pace, share of recent time, decodes and their context."""


class GroupLoads:
    """All rows of some instances, in order, as they were at one time."""

    __slots__ = ("_at_rest", "_columns", "_faded", "_now", "_ones", "_rows", "_table", "least_pace")

    def __init__(
        self, table: bytes, columns: range | list[int], *, now: float, faded: float, least_pace: float, at_rest: int
    ) -> None:
        """These columns of a table that changes no more; a bit for each column of it that is `at_rest`."""
        self._table = table
        self._at_rest = at_rest
        self._columns = columns
        self._now = now
        self._faded = faded
        self._rows: Numbers | None = None
        self._ones: dict[int, OneLoad] = {}
        self.least_pace = least_pace
        """No instance has a smaller one."""

    def one(self, place: int) -> OneLoad:
        """Of one instance."""
        found = self._ones.get(place)
        if found is None:
            found = self._ones[place] = self._one(place)
        return found

    def _one(self, place: int) -> OneLoad:
        numbers = _LOAD.unpack_from(self._table, self._columns[place] * _LOAD.size)
        ends_at, least_s, spent, tokens, _, pace, _, _, decodes, context, _ = numbers
        wait_s, share = ends_at - self._now, spent * self._faded
        return (
            tokens,
            wait_s if wait_s > least_s else least_s,
            pace,
            share if share < _MAX_SHARE else _MAX_SHARE,
            decodes,
            context,
        )

    def total_wait_s(self) -> float:
        """Seconds queued on all of them together."""
        if self._rows is None and len(self._columns) <= FEW:
            return sum(self.one(place)[1] for place in range(len(self._columns)))
        return float(np.add.reduce(self.rows()[WAIT_S]))

    @property
    def count(self) -> int:
        return len(self._columns)

    def at_rest(self) -> int:
        """A bit for each place whose instance has nothing to do and spent nothing lately; 0 may be said of some."""
        columns = self._columns
        if not isinstance(columns, range):
            return 0
        return self._at_rest >> columns.start & (1 << len(columns)) - 1

    def rows(self) -> Numbers:
        """Of everybody."""
        if self._rows is None:
            columns = self._columns
            where = slice(columns.start, columns.stop) if isinstance(columns, range) else columns
            rows = self._rows = np.frombuffer(self._table).reshape(-1, _KINDS)[where].T.copy()
            wait_s, share = rows[WAIT_S], rows[SHARE]
            np.subtract(rows[ENDS_AT], self._now, out=wait_s)
            np.maximum(wait_s, rows[LEAST_S], out=wait_s)
            np.multiply(rows[SPENT], self._faded, out=share)
            np.minimum(share, _MAX_SHARE, out=share)
        return self._rows


class LoadTable:
    def __init__(self, *, now: float) -> None:
        self.columns: dict[InstanceId, int] = {}
        self.usual_pace = 1.0
        self.least_pace = 1.0
        """Of any instance, or less."""
        self.at_rest = 0
        """A bit for each column whose instance has nothing to do and spent nothing lately; the ledger keeps it."""
        self.fades_since = now
        self._free: list[int] = []
        self._groups: dict[int, tuple[tuple[InstanceId, ...], range | list[int]]] = {}  # by id
        self._keep(np.zeros((8, _KINDS)))

    def column(self, instance: InstanceId) -> int:
        """Its own; a new one, with nothing to do, if it has none."""
        column = self.columns.get(instance)
        if column is None:
            column = self.columns[instance] = self._free.pop() if self._free else len(self.columns)
            if column >= len(self._table):
                self._keep(np.concatenate([self._table, np.zeros_like(self._table)]))
            self._table[column] = _IDLE
            self.at_rest |= 1 << column
            self.put_pace(column, self.usual_pace)
        return column

    def release(self, column: int) -> None:
        """Its instance is out of `columns`."""
        self._free.append(column)
        self._groups.clear()

    def group(self, instances: tuple[InstanceId, ...], *, now: float) -> GroupLoads:
        known = self._groups.get(id(instances))
        columns = self._find(instances) if known is None else known[1]
        faded = exp((self.fades_since - now) / RECENT_S)
        return GroupLoads(
            self._table.tobytes(), columns, now=now, faded=faded, least_pace=self.least_pace, at_rest=self.at_rest
        )

    def put_pace(self, column: int, pace: float) -> None:
        load = self.loads[column]
        load[PACE] = pace
        load[BESIDE] = load[DECODES] * pace
        used = len(self.columns) + len(self._free)
        self.least_pace = float(np.minimum.reduce(self._table[:used, PACE]))

    def most(self, row: int) -> float:
        return float(np.maximum.reduce(self._table[: len(self.columns) + len(self._free), row], initial=0.0))

    def fade(self, by: float) -> None:
        """What was spent so far counts so much less."""
        self._table[:, SPENT] *= by

    def _keep(self, table: Numbers) -> None:
        self._table = table
        self.loads = [numbers.data.cast("B").cast("d") for numbers in table]
        """By column and row."""

    def _find(self, instances: tuple[InstanceId, ...]) -> range | list[int]:
        """Columns in a row are the usual case."""
        columns = [self.column(i) for i in instances]
        if len(self._groups) >= _MAX_GROUPS:
            self._groups.clear()
        first = columns[0] if columns else 0
        in_a_row = range(first, first + len(columns))
        found = in_a_row if columns == [*in_a_row] else columns
        self._groups[id(instances)] = instances, found
        return found

    def __repr__(self) -> str:
        return f"LoadTable({len(self.columns)} instances)"

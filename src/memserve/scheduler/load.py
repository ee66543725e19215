"""Who has what to do: tokens and predicted seconds of the requests already sent to each instance.

A request weighs on an instance in up to two shares, one per phase: the prompt tokens that it lacks and must compute
or take in, and the output it is expected to produce, with the context that it keeps meanwhile. A count of requests
would call a 4,000-token prompt and a 40-token one the same. Owns also how much of its recent time each instance was
given to spend on prefills, which is what its decodes have to wait for.

Numbers lie in arrays, a slot per instance, so that many instances are weighed at once. Single ones are changed
through a memoryview of each row, which takes half the time.
"""

from math import exp, inf
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from memserve.core.clock import Clock
from memserve.core.enums import Phase
from memserve.core.ids import InstanceId, RequestId

Numbers = npt.NDArray[np.float64]

RECENT_S = 10.0
"""Over which the share of time spent on prefills fades."""

_MAX_SHARE = 0.9
_MAX_GROUPS = 64
_FADED_OUT = 20.0
"""After so many times RECENT_S, what was noted at the beginning is faded for good, so that numbers stay small."""
_TOKENS, _ENDS_AT, _LEAST_S, _DECODES, _CONTEXT, _SPENT, _PACE = range(7)
"""Rows of the table. Queued prefills take until _ENDS_AT, and no less than _LEAST_S from now: all but the first one
of them. What was spent is noted as if it had been spent at one point in time, the same for all."""
_IDLE = [0.0, -inf, 0.0, 0.0, 0.0, 0.0, 1.0]


class InstanceLoads(msgspec.Struct, frozen=True, kw_only=True):
    """Of some instances, in order."""

    tokens: Numbers
    """Queued: to compute, to take in, to produce."""
    prefill_s: Numbers
    """Predicted seconds until all prompts that are queued there are computed."""
    decodes: Numbers
    """Answers that it has been given to produce and that are not complete."""
    context: Numbers
    """Tokens of these, prompts included."""
    prefill_share: Numbers
    """Of its recent time, what was given to prefills; up to 0.9."""
    pace: Numbers
    """Seconds that its prefills take over those that the terms alone predict."""


class _Share(msgspec.Struct, frozen=True, kw_only=True):
    slot: int
    num_tokens: int
    seconds: float
    context_tokens: int


class _Queue(NamedTuple):
    """Prefills of one instance."""

    number: int
    seconds: float
    """Of all of them, by the terms alone."""
    since: float
    """When the first one of them began."""


_NO_QUEUE = _Queue(0, 0.0, 0.0)
Rows = tuple[Numbers, ...]


class LoadLedger:
    """Shares go in with `add` and out with `drop`; both may be repeated."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._shares: dict[Phase, dict[RequestId, _Share]] = {Phase.PREFILL: {}, Phase.DECODE: {}}
        self._slots: dict[InstanceId, int] = {}
        self._free: list[int] = []
        self._groups: dict[tuple[InstanceId, ...], npt.NDArray[np.intp] | Rows] = {}
        self._keep(np.zeros((len(_IDLE), 8)))
        self._queues: dict[int, _Queue] = {}  # by slot
        self._usual_pace = 1.0
        self._paced: set[InstanceId] = set()
        self._fades_since = clock.now()

    def add(
        self,
        *,
        request: RequestId,
        phase: Phase,
        instance: InstanceId,
        num_tokens: int,
        seconds: float = 0.0,
        context_tokens: int = 0,
    ) -> None:
        """Put the request's share of this phase, PREFILL or DECODE, on `instance`; an earlier share of it goes.

        `seconds` are those of its prefill by the terms alone: they count times the instance's pace, as it is known
        when they are asked for. `context_tokens` are those that its decode keeps.
        """
        self._take_out(request, phase)
        slot = self._slot(instance)
        share = _Share(slot=slot, num_tokens=num_tokens, seconds=seconds, context_tokens=context_tokens)
        self._shares[phase][request] = share
        self._count(share, phase, +1)
        if seconds:
            self._spend(slot, seconds)

    def drop(self, request: RequestId, phase: Phase) -> None:
        """The phase is over."""
        self._take_out(request, phase)

    def drop_all(self, request: RequestId) -> None:
        """The request is over, whatever became of it."""
        for phase, shares in self._shares.items():
            share = shares.pop(request, None)
            if share is not None:
                self._count(share, phase, -1)

    def set_pace(self, instance: InstanceId, factor: float, *, usual: float) -> None:
        """It takes this many times as long as the terms alone predict; `usual` goes for those not told of."""
        self._paced.add(instance)
        if usual != self._usual_pace:
            self._usual_pace = usual
            for name, slot in self._slots.items():
                if name not in self._paced:
                    self._put_pace(slot, usual)
        self._put_pace(self._slot(instance), factor)

    def forget(self, instance: InstanceId) -> None:
        """The instance is gone; what was queued on it is queued no more."""
        self._paced.discard(instance)
        slot = self._slots.pop(instance, None)
        if slot is None:
            return
        for phase, shares in self._shares.items():
            for request in [request for request, share in shares.items() if share.slot == slot]:
                self._take_out(request, phase)
        self._free.append(slot)
        self._queues.pop(slot, None)
        self._groups.clear()

    def of(self, instances: tuple[InstanceId, ...]) -> InstanceLoads:
        """All at once, in order."""
        tokens, ends_at, least_s, decodes, context, spent, pace = self._rows_of(instances)
        now = self._clock.now()
        return InstanceLoads(
            tokens=tokens,
            prefill_s=np.maximum(ends_at - now, least_s),
            decodes=decodes,
            context=context,
            prefill_share=np.minimum(spent * exp((self._fades_since - now) / RECENT_S), _MAX_SHARE),
            pace=pace,
        )

    def decoding(self, instance: InstanceId) -> tuple[float, float]:
        """Answers that it has been given to produce, and the tokens of their context; 0 for one that is not known."""
        slot = self._slots.get(instance)
        return (0.0, 0.0) if slot is None else (float(self._table[_DECODES, slot]), float(self._table[_CONTEXT, slot]))

    def snapshot(self) -> dict[InstanceId, int]:
        """Tokens queued per instance; those with nothing are left out."""
        tokens = self._table[_TOKENS]
        return {instance: int(tokens[slot]) for instance, slot in self._slots.items() if tokens[slot]}

    def _take_out(self, request: RequestId, phase: Phase) -> None:
        share = self._shares[phase].pop(request, None)
        if share is not None:
            self._count(share, phase, -1)

    def _count(self, share: _Share, phase: Phase, sign: int) -> None:
        slot, rows = share.slot, self._rows
        rows[_TOKENS][slot] += sign * share.num_tokens
        if phase is Phase.PREFILL:
            self._count_prefill(slot, share.seconds, sign)
        else:
            rows[_DECODES][slot] += sign
            rows[_CONTEXT][slot] += sign * share.context_tokens

    def _count_prefill(self, slot: int, seconds: float, sign: int) -> None:
        number, queued_s, since = self._queues.get(slot, _NO_QUEUE)
        number += sign
        if not number:
            del self._queues[slot]
            self._rows[_ENDS_AT][slot], self._rows[_LEAST_S][slot] = -inf, 0.0
            return
        if sign < 0 or number == 1:
            since = self._clock.now()  # the next one begins
        self._queues[slot] = _Queue(number, queued_s + sign * seconds, since)
        self._put_queue(slot)

    def _put_queue(self, slot: int) -> None:
        number, queued_s, since = self._queues[slot]
        paced_s = queued_s * self._rows[_PACE][slot]
        self._rows[_ENDS_AT][slot] = since + paced_s
        self._rows[_LEAST_S][slot] = paced_s - paced_s / number

    def _put_pace(self, slot: int, pace: float) -> None:
        """What is queued and what was spent count times the pace."""
        rows = self._rows
        rows[_SPENT][slot] *= pace / rows[_PACE][slot]
        rows[_PACE][slot] = pace
        if slot in self._queues:
            self._put_queue(slot)

    def _spend(self, slot: int, seconds: float) -> None:
        gone = (self._clock.now() - self._fades_since) / RECENT_S
        if gone > _FADED_OUT:
            self._table[_SPENT] *= exp(-gone)
            self._fades_since = self._clock.now()
            gone = 0.0
        self._rows[_SPENT][slot] += seconds * self._rows[_PACE][slot] / RECENT_S * exp(gone)

    def _keep(self, table: npt.NDArray[np.float64]) -> None:
        self._table = table
        self._rows = [row.data.cast("B").cast("d") for row in table]

    def _rows_of(self, instances: tuple[InstanceId, ...]) -> Rows:
        """Of slots in a row, which is the usual case, the numbers themselves, to be read only; else copies."""
        found = self._groups.get(instances)
        if found is None:
            if len(self._groups) >= _MAX_GROUPS:
                self._groups.clear()
            slots = [self._slot(i) for i in instances]
            first = slots[0] if slots else 0
            in_a_row = slots == [*range(first, first + len(slots))]
            found = self._readable(first, len(slots)) if in_a_row else np.array(slots, dtype=np.intp)
            self._groups[instances] = found
        return found if isinstance(found, tuple) else tuple(self._table.take(found, axis=1))

    def _readable(self, first: int, count: int) -> Rows:
        rows = self._table[:, first : first + count]
        rows.flags.writeable = False
        return tuple(rows)

    def _slot(self, instance: InstanceId) -> int:
        slot = self._slots.get(instance)
        if slot is None:
            slot = self._slots[instance] = self._free.pop() if self._free else len(self._slots)
            if slot >= self._table.shape[1]:
                self._keep(np.concatenate([self._table, np.zeros_like(self._table)], axis=1))
                self._groups.clear()
            self._table[:, slot] = _IDLE
            self._table[_PACE, slot] = self._usual_pace
        return slot

    def __repr__(self) -> str:
        return f"LoadLedger({len(self._shares[Phase.PREFILL])} prefills, {self.snapshot()})"

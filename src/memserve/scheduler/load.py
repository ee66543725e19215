"""Who has what to do: tokens and predicted seconds of the requests already sent to each instance.

A request weighs on an instance in up to two shares, one per phase: the prompt tokens that it lacks and must compute
or take in, and the output it is expected to produce, with the context that it keeps meanwhile. A count of requests
would call a 4,000-token prompt and a 40-token one the same. Owns also how much of its recent time each instance was
given to spend on prefills, which is what its decodes have to wait for. The numbers themselves lie in a LoadTable.
"""

from math import exp, inf
from typing import NamedTuple

import msgspec

from memserve.core.clock import Clock
from memserve.core.enums import Phase
from memserve.core.ids import InstanceId, RequestId
from memserve.scheduler.load_table import (
    BESIDE,
    CONTEXT,
    DECODES,
    ENDS_AT,
    LEAST_S,
    PACE,
    RECENT_S,
    SHARE,
    SPENT,
    TOKENS,
    WAIT_S,
    GroupLoads,
    LoadTable,
    Numbers,
)

_FADED_OUT = 20.0
"""After so many times RECENT_S, what was noted at the beginning is faded for good, so that numbers stay small."""


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


def instance_loads(loads: GroupLoads) -> InstanceLoads:
    rows = loads.rows()
    return InstanceLoads(
        tokens=rows[TOKENS],
        prefill_s=rows[WAIT_S],
        decodes=rows[DECODES],
        context=rows[CONTEXT],
        prefill_share=rows[SHARE],
        pace=rows[PACE],
    )


_Share = tuple[int, int, float, int]
"""Column of its instance, tokens, seconds of a prefill, context of a decode."""


class _Queue(NamedTuple):
    """Prefills of one instance."""

    number: int
    seconds: float
    """Of all of them, by the terms alone."""
    since: float
    """When the first one of them began."""
    paced_s: float
    """`seconds` at the instance's pace."""


class LoadLedger:
    """Shares go in with `add` and out with `drop`; both may be repeated."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._prefills: dict[RequestId, _Share] = {}
        self._decodes: dict[RequestId, _Share] = {}
        self._table = LoadTable(now=clock.now())
        self._queues: dict[int, _Queue] = {}  # by column
        self._queued_s = 0.0  # of all queues, at the pace of their instances
        self._most_context = 0.0  # of any instance, or more
        self._paces: dict[InstanceId, float] = {}  # of those told of, as multiples of the usual one

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
        shares = self._prefills if phase is Phase.PREFILL else self._decodes
        if request in shares:
            self.drop(request, phase)
        column = self._table.column(instance)
        shares[request] = column, num_tokens, seconds, context_tokens
        self._table.loads[column][TOKENS] += num_tokens
        if phase is Phase.PREFILL:
            self._enqueue(column, seconds)
        else:
            self._decode(column, 1, context_tokens)

    def drop(self, request: RequestId, phase: Phase) -> None:
        """The phase is over."""
        shares = self._prefills if phase is Phase.PREFILL else self._decodes
        share = shares.pop(request, None)
        if share is None:
            return
        column, num_tokens, seconds, context_tokens = share
        load = self._table.loads[column]
        load[TOKENS] -= num_tokens
        if phase is Phase.PREFILL:
            self._leave(column, seconds)
        else:
            self._decode(column, -1, -context_tokens)
        if not load[DECODES] and not load[SPENT] and column not in self._queues:
            self._table.at_rest |= 1 << column

    def drop_all(self, request: RequestId) -> None:
        """The request is over, whatever became of it."""
        self.drop(request, Phase.PREFILL)
        self.drop(request, Phase.DECODE)

    def set_pace(self, instance: InstanceId, own: float, *, usual: float) -> None:
        """Any instance takes `usual` times as long as the terms alone predict, and this one `own` times that."""
        self._paces[instance] = own
        table = self._table
        column = table.column(instance)
        if usual == table.usual_pace:
            self._put_pace(column, usual * own)
            return
        table.usual_pace = usual
        for name, column in table.columns.items():
            self._put_pace(column, usual * self._paces.get(name, 1.0))

    def forget(self, instance: InstanceId) -> None:
        """The instance is gone; what was queued on it is queued no more."""
        self._paces.pop(instance, None)
        column = self._table.columns.pop(instance, None)
        if column is None:
            return
        for shares, phase in ((self._prefills, Phase.PREFILL), (self._decodes, Phase.DECODE)):
            for request in [request for request, share in shares.items() if share[0] == column]:
                self.drop(request, phase)
        self._table.release(column)

    def group(self, instances: tuple[InstanceId, ...]) -> GroupLoads:
        """All at once, in order, as of now."""
        return self._table.group(instances, now=self._clock.now())

    def of(self, instances: tuple[InstanceId, ...]) -> InstanceLoads:
        """As `group`, each by its name."""
        return instance_loads(self.group(instances))

    def mean_wait_s(self, loads: GroupLoads, *, above: float) -> float:
        """Until all prompts queued on one of a group are computed; 0 where it is clear that it is no more than `above`.

        That is clear where all of them together would not have to wait for longer if nothing were computed yet.
        """
        if self._queued_s <= above:
            return 0.0
        return loads.total_wait_s() / loads.count

    def most_context(self, *, above: float) -> float:
        """Tokens of the answers that one instance has to produce, no instance more; as exact as `above` asks for."""
        if self._most_context > above:
            self._most_context = self._table.most(CONTEXT)
        return self._most_context

    def decoding(self, instance: InstanceId) -> tuple[float, float]:
        """Answers that it has been given to produce, and the tokens of their context; 0 for one that is not known."""
        column = self._table.columns.get(instance)
        if column is None:
            return 0.0, 0.0
        load = self._table.loads[column]
        return load[DECODES], load[CONTEXT]

    def snapshot(self) -> dict[InstanceId, int]:
        """Tokens queued per instance; those with nothing are left out."""
        tokens = {name: int(self._table.loads[column][TOKENS]) for name, column in self._table.columns.items()}
        return {name: queued for name, queued in tokens.items() if queued}

    def _decode(self, column: int, sign: int, context_tokens: int) -> None:
        load = self._table.loads[column]
        decodes = load[DECODES] = load[DECODES] + sign
        context = load[CONTEXT] = load[CONTEXT] + context_tokens
        load[BESIDE] = decodes * load[PACE]
        if decodes:
            self._table.at_rest &= ~(1 << column)
        self._most_context = max(self._most_context, context)

    def _enqueue(self, column: int, seconds: float) -> None:
        now, queue = self._clock.now(), self._queues.get(column)
        if queue is None:
            self._put_queue(column, 1, seconds, now, 0.0)
        else:
            self._put_queue(column, queue.number + 1, queue.seconds + seconds, queue.since, queue.paced_s)
        if seconds:
            self._spend(column, seconds, now)

    def _leave(self, column: int, seconds: float) -> None:
        queue = self._queues[column]
        if queue.number > 1:  # the next one begins
            self._put_queue(column, queue.number - 1, queue.seconds - seconds, self._clock.now(), queue.paced_s)
            return
        load = self._table.loads[column]
        load[ENDS_AT], load[LEAST_S] = -inf, 0.0
        del self._queues[column]
        self._queued_s = self._queued_s - queue.paced_s if self._queues else 0.0

    def _put_queue(self, column: int, number: int, seconds: float, since: float, paced_before_s: float) -> None:
        """In place of one that took `paced_before_s`."""
        load = self._table.loads[column]
        paced_s = seconds * load[PACE]
        load[ENDS_AT] = since + paced_s
        load[LEAST_S] = paced_s - paced_s / number
        self._queues[column] = _Queue(number, seconds, since, paced_s)
        self._queued_s += paced_s - paced_before_s

    def _put_pace(self, column: int, pace: float) -> None:
        """What is queued and what was spent count times the pace."""
        load = self._table.loads[column]
        load[SPENT] *= pace / load[PACE]
        self._table.put_pace(column, pace)
        if column in self._queues:
            self._put_queue(column, *self._queues[column])

    def _spend(self, column: int, seconds: float, now: float) -> None:
        table = self._table
        gone = (now - table.fades_since) / RECENT_S
        if gone > _FADED_OUT:
            table.fade(exp(-gone))
            table.fades_since = now
            gone = 0.0
        load = table.loads[column]
        load[SPENT] += seconds * load[PACE] / RECENT_S * exp(gone)
        table.at_rest &= ~(1 << column)

    def __repr__(self) -> str:
        return f"LoadLedger({len(self._prefills)} prefills, {self.snapshot()})"

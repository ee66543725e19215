"""Who has what queued, in tokens: what each instance still has to do for requests already sent to it.

A request weighs on an instance in up to two shares, one per phase: the prompt tokens that it lacks
and must compute or take in, and the output it is expected to produce. A count of requests would call
a 4,000-token prompt and a 40-token one the same.
"""

from collections import defaultdict
from collections.abc import Iterable
from itertools import repeat

from memserve.core.enums import Phase
from memserve.core.ids import InstanceId, RequestId


class LoadLedger:
    """Shares go in with `add` and out with `drop`; both may be repeated."""

    def __init__(self) -> None:
        self._shares: dict[RequestId, dict[Phase, tuple[InstanceId, int]]] = {}
        self._queued: defaultdict[InstanceId, int] = defaultdict(int)

    def add(self, *, request: RequestId, phase: Phase, instance: InstanceId, num_tokens: int) -> None:
        """Put the request's share of this phase on `instance`; an earlier share of it goes."""
        self._take_out(request, phase)
        self._shares.setdefault(request, {})[phase] = (instance, num_tokens)
        self._queued[instance] += num_tokens

    def drop(self, request: RequestId, phase: Phase) -> None:
        """The phase is over."""
        self._take_out(request, phase)

    def drop_all(self, request: RequestId) -> None:
        """The request is over, whatever became of it."""
        for phase in list(self._shares.get(request, ())):
            self._take_out(request, phase)

    def forget(self, instance: InstanceId) -> None:
        """The instance is gone; what was queued on it is queued no more."""
        gone = [(r, phase) for r, shares in self._shares.items() for phase, (i, _) in shares.items() if i == instance]
        for request, phase in gone:
            self._take_out(request, phase)

    def queued(self, instances: Iterable[InstanceId]) -> list[int]:
        """Tokens queued on each, in order."""
        return [*map(self._queued.get, instances, repeat(0))]

    def snapshot(self) -> dict[InstanceId, int]:
        """Tokens queued per instance; those with nothing are left out."""
        return dict(self._queued)

    def _take_out(self, request: RequestId, phase: Phase) -> None:
        shares = self._shares.get(request)
        if shares is None or phase not in shares:
            return
        instance, num_tokens = shares.pop(phase)
        if not shares:
            del self._shares[request]
        self._queued[instance] -= num_tokens
        if not self._queued[instance]:
            del self._queued[instance]

    def __repr__(self) -> str:
        return f"LoadLedger({len(self._shares)} requests, {dict(self._queued)})"

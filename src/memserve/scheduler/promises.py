"""Prompts on their way: their instances are counted on to hold them before long.

Owns when each promise is to be renewed: half-way through, each time for twice as long as the request has been under
way, so that a promise lasts as long as its request waits and ends soon after, kept or not.
"""

from heapq import heappop, heappush

from memserve.core.clock import Clock
from memserve.core.ids import RequestId


class Promises:
    def __init__(self, clock: Clock, *, confirm_s: float) -> None:
        """None is made for less than `confirm_s` seconds."""
        self._clock = clock
        self._confirm_s = confirm_s
        self._renewals: list[tuple[float, float, RequestId]] = []  # when, since when the request is under way, which

    def make(self, request: RequestId, *, since: float | None = None) -> float:
        """Seconds for which to believe from now on."""
        now = self._clock.now()
        began = now if since is None else since
        keep_s = max(self._confirm_s, 2 * (now - began))
        heappush(self._renewals, (now + keep_s / 2, began, request))
        return keep_s

    def due(self) -> list[tuple[RequestId, float]]:
        """Those to be renewed, with the time since when they are under way; told once."""
        if not self._renewals:
            return []
        now, found = self._clock.now(), []
        while self._renewals and self._renewals[0][0] <= now:
            _, since, request = heappop(self._renewals)
            found.append((request, since))
        return found

    def __repr__(self) -> str:
        return f"Promises({len(self._renewals)} to renew)"

"""Prefills that were to be over by now: which of them to look at.

Owns when each is looked at and nothing of what follows from it.
"""

from heapq import heappop, heappush

from memserve.core.clock import Clock
from memserve.core.ids import RequestId


class Overruns:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._looks: list[tuple[float, RequestId]] = []

    def look_in(self, seconds: float, request: RequestId) -> None:
        heappush(self._looks, (self._clock.now() + seconds, request))

    def due(self) -> list[RequestId]:
        """Told once."""
        if not self._looks:
            return []
        now, found = self._clock.now(), []
        while self._looks and self._looks[0][0] <= now:
            found.append(heappop(self._looks)[1])
        return found

    def __repr__(self) -> str:
        return f"Overruns({len(self._looks)} to look at)"

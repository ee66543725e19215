"""Who comes next when more is asked for than may run: start-time fair queueing between tenants, each bounded.

Owns the places of those who wait. A tenant that asks for much waits behind its own requests, not before those of
others: with weights 2 and 1, two tokens of the first are begun for one of the second as long as both wait. Pure.

The tags follow Goyal, Vin and Cheng, "Start-time Fair Queueing" (SIGCOMM 1996): a request starts where its tenant's
last one finishes, but not before the start of what was begun last, and finishes cost / weight later.
"""

import heapq
from collections import Counter
from itertools import count

import msgspec

from memserve.core.errors import InvariantError, MemserveError


class QueueFull(MemserveError):
    """Whoever asks is to come again later; nothing was queued."""


class Place(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """One request's place; the lowest is next."""

    start: float
    number: int
    tenant: str


class FairQueue:
    """Places are entered, then either taken in order or left."""

    def __init__(self, *, max_waiting: int, max_per_tenant: int) -> None:
        self._max_waiting = max_waiting
        self._max_per_tenant = max_per_tenant
        self._heap: list[Place] = []
        self._waiting: set[Place] = set()
        self._per_tenant: Counter[str] = Counter()
        self._finish: dict[str, float] = {}
        self._now = 0.0
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._waiting)

    def waiting(self, tenant: str) -> int:
        return self._per_tenant[tenant]

    def enter(self, tenant: str, *, weight: float, cost: float) -> Place:
        """`cost` in any unit that is the same for all, above 0, as `weight`. Raises QueueFull with the numbers."""
        if self._per_tenant[tenant] >= self._max_per_tenant:
            raise QueueFull(f"{self._per_tenant[tenant]} requests of yours are waiting, the most allowed")
        if len(self) >= self._max_waiting:
            raise QueueFull(f"{len(self)} requests are waiting, the most allowed")
        place = Place(start=self._charge(tenant, weight, cost), number=next(self._numbers), tenant=tenant)
        heapq.heappush(self._heap, place)
        self._waiting.add(place)
        self._per_tenant[tenant] += 1
        return place

    def pass_by(self, tenant: str, *, weight: float, cost: float) -> None:
        """A request that need not wait: it counts for what its tenant asks for next."""
        if self._waiting:
            raise InvariantError(f"{len(self)} requests wait: nobody may pass them by")
        self._now = self._charge(tenant, weight, cost)

    def take(self) -> Place | None:
        """The next one, which waits no more; None when nobody waits."""
        while self._heap:
            place = heapq.heappop(self._heap)
            if place in self._waiting:
                self._remove(place)
                self._now = max(self._now, place.start)
                return place
        return None

    def leave(self, place: Place) -> bool:
        """The request is given up; False when it was not waiting any more."""
        if place not in self._waiting:
            return False
        self._remove(place)
        return True

    def _charge(self, tenant: str, weight: float, cost: float) -> float:
        start = max(self._now, self._finish.get(tenant, 0.0))
        self._finish[tenant] = start + cost / weight
        return start

    def _remove(self, place: Place) -> None:
        self._waiting.remove(place)
        self._per_tenant[place.tenant] -= 1
        if not self._per_tenant[place.tenant]:
            del self._per_tenant[place.tenant]
        if len(self._heap) > 2 * len(self._waiting) + 16:
            self._heap = sorted(self._waiting)

    def __repr__(self) -> str:
        return f"FairQueue({len(self)}/{self._max_waiting} waiting, {dict(self._per_tenant)})"

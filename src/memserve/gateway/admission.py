"""How much may run at once: beyond it requests wait their fair turn, and beyond that they are refused with 429.

Owns the slots in use and who waits for one. The number of slots follows the cluster: so many for each instance
that serves. Knows nothing of what a request is. Used in one event loop.

    slot free -> runs -> leaves
    none free -> waits (FairQueue) -> runs -> leaves       or gives up, whoever waits, at any moment
    too many wait -> refused
"""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from math import ceil
from types import TracebackType

from memserve.core.clock import Clock
from memserve.gateway.errors import ApiError
from memserve.gateway.fair_queue import FairQueue, Place, QueueFull
from memserve.gateway.tenants import Tenant

_MEMORY = 0.1
"""Weight of the latest interval in the mean time between two requests that end."""
_MAX_RETRY_AFTER_S = 60


class Admission:
    """One for all requests of a gateway."""

    def __init__(self, *, num_slots: Callable[[], int], queue: FairQueue, clock: Clock) -> None:
        """`num_slots` says how many may run now; it may change at any time, `refresh` takes notice."""
        self._num_slots = num_slots
        self._queue = queue
        self._clock = clock
        self._running = 0
        self._turns: dict[Place, asyncio.Future[None]] = {}
        self._last_end = clock.now()
        self._interval_s = 1.0

    @property
    def num_running(self) -> int:
        return self._running

    def num_waiting(self, tenant: Tenant) -> int:
        return self._queue.waiting(tenant.name)

    def slot(self, tenant: Tenant, *, cost: float) -> "_Slot":
        """Run the block in a slot; gives the seconds that it had to wait. Raises ApiError 429 when too many wait."""
        return _Slot(self, tenant, cost)

    def refresh(self) -> None:
        """Let those in whom the present number of slots allows."""
        while self._running < self._num_slots() and (place := self._queue.take()) is not None:
            self._running += 1
            self._turns.pop(place).set_result(None)

    async def enter(self, tenant: Tenant, cost: float) -> float:
        """Seconds until there was a slot, which is to be left again."""
        began = self._clock.now()
        await self._wait_for_one(tenant, cost)
        return self._clock.now() - began

    def leave(self) -> None:
        """One slot less is in use."""
        self._running -= 1
        now = self._clock.now()
        self._interval_s += _MEMORY * (now - self._last_end - self._interval_s)
        self._last_end = now
        self.refresh()

    async def _wait_for_one(self, tenant: Tenant, cost: float) -> None:
        if not len(self._queue) and self._running < self._num_slots():
            self._queue.pass_by(tenant.name, weight=tenant.weight, cost=cost)
            self._running += 1
            return
        try:
            place = self._queue.enter(tenant.name, weight=tenant.weight, cost=cost)
        except QueueFull as error:
            after_s = self._retry_after_s()
            raise ApiError(
                f"the cluster is overloaded: {error}; try again in {after_s} s",
                status=HTTPStatus.TOO_MANY_REQUESTS,
                headers=((b"retry-after", str(after_s).encode()),),
            ) from error
        turn = self._turns[place] = asyncio.get_running_loop().create_future()
        try:
            await turn
        except asyncio.CancelledError:
            if not self._queue.leave(place):
                self.leave()  # its turn had come at the same moment
            self._turns.pop(place, None)
            raise

    def _retry_after_s(self) -> int:
        """Until about half of those who wait have had their turn."""
        return min(max(1, ceil(len(self._queue) * self._interval_s / 2)), _MAX_RETRY_AFTER_S)

    def __repr__(self) -> str:
        return f"Admission({self._running}/{self._num_slots()} running, {self._queue})"


class _Slot:
    """One block's."""

    __slots__ = ("_admission", "_cost", "_tenant")

    def __init__(self, admission: Admission, tenant: Tenant, cost: float) -> None:
        self._admission = admission
        self._tenant = tenant
        self._cost = cost

    async def __aenter__(self) -> float:
        return await self._admission.enter(self._tenant, self._cost)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._admission.leave()

"""What lives as long as the gateway serves: upstream connections, the instance watch, releases, the retry budget.

Owns the one background task, which follows the cluster view.

    built -> open (inside the event loop) -> serving -> closed
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from memserve.core.clock import SystemClock
from memserve.core.enums import SERVING_ROLES
from memserve.gateway.admission import Admission
from memserve.gateway.context import GatewayContext
from memserve.gateway.errors import InstanceLost, unavailable
from memserve.gateway.fair_queue import FairQueue
from memserve.gateway.model_cards import ModelCards
from memserve.gateway.occupancy import Occupancy
from memserve.gateway.release import ReleaseDesk
from memserve.gateway.request_body import ClientRequest
from memserve.gateway.retry_budget import RetryBudget
from memserve.gateway.upstream import Upstream
from memserve.gateway.watch import InstanceWatch
from memserve.wire.identity import Namespace

_VIEW_PERIOD_S = 0.1


class GatewayRuntime:
    def __init__(self, context: GatewayContext) -> None:
        self.context = context
        self.watch = InstanceWatch(on_left=context.scheduler.forget)
        self.desk = ReleaseDesk(context.releases)
        self.cards = ModelCards(SystemClock())
        settings = context.settings
        self.retries = RetryBudget(ratio=settings.retry_ratio, reserve=settings.retry_reserve)
        context.metrics.show_retry_budget(lambda: self.retries.num_left)
        self.occupancy = Occupancy(limit=settings.max_requests_per_instance)
        self.admission = Admission(
            num_slots=self._num_slots,
            queue=FairQueue(max_waiting=settings.max_waiting, max_per_tenant=settings.max_waiting_per_tenant),
            clock=SystemClock(),
        )
        context.metrics.show_waiting(
            lambda: {tenant.name: self.admission.num_waiting(tenant) for tenant in context.tenants.all}
        )
        self._upstream: Upstream | None = None

    def pay_for_retry(self, lost: InstanceLost) -> None:
        """Raises ApiError 503 when there have been too many for one more."""
        if not self.retries.take():
            self.context.metrics.retries_refused.inc()
            raise unavailable(f"the retry budget is used up by other faults; this one: {lost}") from lost

    async def namespace(self, request: ClientRequest) -> Namespace:
        """Root of the prompt's KV: a model that is none of the base model's names is an adapter."""
        if request.model in self.context.base_models:
            return request.namespace()
        told_by = next(iter(self.context.cluster.view.active(*SERVING_ROLES)), None)
        return request.namespace(adapter=await self.cards.adapter(request.model, told_by, self.upstream))

    @property
    def upstream(self) -> Upstream:
        if self._upstream is None:
            raise RuntimeError("the gateway is not open: run its app with lifespan support")
        return self._upstream

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Connections and the view follower, for the length of the block."""
        self._upstream = Upstream(self.context.secret)
        try:
            async with asyncio.TaskGroup() as group:
                follower = group.create_task(self._follow_view(), name="view follower")
                yield
                follower.cancel()
        finally:
            await self.desk.close()
            await self._upstream.close()
            self._upstream = None

    def _num_slots(self) -> int:
        """By those who produce answers: a request stays with one of them to its end.

        With nobody left to serve, one request may pass at a time, to be told so.
        """
        return max(1, self.context.cluster.view.num_answering * self.context.settings.max_requests_per_instance)

    async def _follow_view(self) -> None:
        while True:
            self.watch.update(self.context.cluster.view)
            self.admission.refresh()
            await asyncio.sleep(_VIEW_PERIOD_S)

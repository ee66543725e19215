"""One completion request, from the decision to the last byte, over one or two instances at a time.

Owns the order of attempts and what happens when one fails. Decides no placement (the scheduler does) and gives
nothing to the client (the Delivery does).

    decide -> deliver -> finished
       ^         |
       └── instance lost: what was given stays, the rest is asked of others ┘

Failure model: a lost instance is told to the manager and excluded, and the request is decided anew, up to
MAX_ATTEMPTS times and as long as the gateway's retry budget lasts; the last attempt does without a prefill
instance. A stream that has begun is resumed after the tokens that were sent, or ends with an error event where
that cannot be done. However it ends, the scheduler is told and what the decode instance holds for the request is
released.
"""

from functools import partial

from memserve.cluster.view import ClusterView
from memserve.core.enums import Role
from memserve.core.errors import InstanceUnavailable
from memserve.core.ids import InstanceId
from memserve.gateway.client_connection import ClientConnection
from memserve.gateway.delivery import Delivery
from memserve.gateway.errors import InstanceLost, unavailable
from memserve.gateway.job import Job, Route
from memserve.gateway.runtime import GatewayRuntime
from memserve.gateway.watch import Member
from memserve.scheduler.decision import Decision, Outcome

MAX_ATTEMPTS = 4


class RequestFlow:
    """One Job; `run` once."""

    def __init__(self, job: Job, *, runtime: GatewayRuntime, client: ClientConnection) -> None:
        self._job = job
        self._context = runtime.context
        self._desk = runtime.desk
        self._runtime = runtime
        self._occupancy = runtime.occupancy
        self._client = client
        self._delivery = Delivery(job, runtime, client)

    async def run(self) -> None:
        """Raises ApiError when no instance could serve, what ended the request's scope when it was ended."""
        outcome = Outcome.FAILED
        self._runtime.retries.request_came()
        try:
            outcome = await self._serve_somewhere()
            await self._client.flushed()  # what is learned of the request need not be waited for
        finally:
            self._context.scheduler.finish(self._job.id, outcome=outcome)
            self._occupancy.drop(self._job.id)
            if self._delivery.holder is not None:
                self._desk.release_soon(self._delivery.holder, self._job.id)

    async def _serve_somewhere(self) -> Outcome:
        gone: frozenset[Member] = frozenset()
        last: InstanceLost | None = None
        for attempt in range(1, MAX_ATTEMPTS + 1):
            alone = self._job.alone or attempt == MAX_ATTEMPTS
            try:
                return await self._delivery.attempt(self._decide(gone, alone=alone))
            except InstanceLost as lost:
                last = lost
                gone |= {(lost.instance, lost.incarnation)}
                await self._give_up_on(lost)
                if self._delivery.is_over:
                    return await self._delivery.finish()
            except InstanceUnavailable as error:
                raise unavailable(f"{error}; last fault: {last}" if last else str(error)) from error
        raise unavailable(f"no instance could serve the request in {MAX_ATTEMPTS} attempts; last fault: {last}")

    async def _give_up_on(self, lost: InstanceLost) -> None:
        """Raises ApiError when there must not or cannot be another attempt."""
        self._context.cluster.request_failed(lost.instance, lost.incarnation, str(lost))
        await self._delivery.prepare_resume(lost)
        if not self._delivery.is_over:
            self._runtime.pay_for_retry(lost)
        self._context.metrics.failovers.labels(lost.instance).inc()
        if self._client.status is not None:
            self._context.metrics.resumes.labels(lost.instance).inc()
            self._context.history.resumed(self._job.id, at=self._delivery.num_given)
        await self._release_from(lost)

    async def _release_from(self, lost: InstanceLost) -> None:
        holder, self._delivery.holder = self._delivery.holder, None
        if holder is None:
            return
        if holder.instance == lost.instance:
            self._desk.release_soon(holder, self._job.id)
        else:
            # It may be asked again under the same request id: what it holds goes before that.
            await self._desk.release(holder, self._job.id)

    def _decide(self, gone: frozenset[Member], *, alone: bool) -> Route:
        """Without those that failed; one that has started again may be asked."""
        view = self._context.cluster.view
        still = (view.find(name) for name, _ in gone)
        excluded = frozenset(i.instance for i in still if i is not None and (i.instance, i.incarnation) in gone)
        if alone and view.active(Role.DECODE, Role.COLOCATED, Role.FLEXIBLE):
            excluded |= {i.instance for i in view.instances if i.role is Role.PREFILL}
        decision = self._place(view, excluded, alone=alone)
        self._occupancy.take(self._job.id, decision.decode, decision.prefill or decision.decode)
        self._context.history.decided(decision)
        decode = view.find(decision.decode)
        if decode is None:
            raise InstanceUnavailable(f"instance {decision.decode} is not in the cluster of epoch {view.epoch}")
        prefill = None if alone or decision.prefill is None else view.find(decision.prefill)
        self._context.scheduler.sent(self._job.id)
        computes = decode if prefill is None else prefill
        holder = view.find(decision.source) if decision.source is not None else None
        return Route(
            prefill=prefill,
            decode=decode,
            source=holder.peer if holder is not None and holder is not computes else None,
        )

    def _place(self, view: ClusterView, excluded: frozenset[InstanceId], *, alone: bool) -> Decision:
        """Among those that have room for one more request, if there are any."""
        self._occupancy.drop(self._job.id)
        full = self._occupancy.full() - excluded
        decide = partial(
            self._context.scheduler.decide,
            request=self._job.id,
            tokens=self._delivery.tokens(),
            namespace=self._job.namespace,
            view=view,
            alone=alone,
            session=self._job.session,
        )
        if not full:
            return decide(exclude=excluded)
        try:
            return decide(exclude=excluded | full)
        except InstanceUnavailable:
            return decide(exclude=excluded)

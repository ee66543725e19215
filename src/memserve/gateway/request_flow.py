"""One completion request, from the decision to the last byte, over one or two instances.

Owns the order of steps and what happens when one fails. Decides no placement (the scheduler does) and
parses no bodies (request_body, response_body do).

    decide -> [prefill there -> report] -> decode here -> bytes to the client -> finished
       ^              |                        |
       └── instance lost, nothing sent yet ────┘

Failure model: a lost instance is told to the manager and excluded, and the request is decided anew, up to
MAX_ATTEMPTS times; the last attempt does without a prefill instance. Once bytes went out the stream ends
with an error event. However it ends, the scheduler is told and what the decode instance holds for the
request is released.
"""

from contextlib import AbstractAsyncContextManager
from http import HTTPStatus

import msgspec
from multidict import CIMultiDict

from memserve.cluster.view import InstanceView
from memserve.core.enums import Role
from memserve.core.errors import InstanceUnavailable
from memserve.core.ids import InstanceId, RequestId
from memserve.gateway import request_body, response_body
from memserve.gateway.client_connection import ClientConnection
from memserve.gateway.context import GatewayContext
from memserve.gateway.errors import ApiError, InstanceLost, unavailable
from memserve.gateway.release import ReleaseDesk
from memserve.gateway.request_body import ClientRequest
from memserve.gateway.upstream import Upstream, UpstreamAnswer
from memserve.gateway.watch import InstanceWatch
from memserve.scheduler.decision import Outcome
from memserve.wire.messages import PeerInfo

MAX_ATTEMPTS = 4


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for, ready to be routed."""

    id: RequestId
    path: str
    request: ClientRequest
    headers: CIMultiDict[str]
    """For the engines; among them the request id, which vLLM makes part of its answer's id."""
    tokens: bytes
    alone: bool


class _Route(msgspec.Struct, frozen=True, kw_only=True):
    """Who takes part in one attempt."""

    prefill: InstanceView | None
    """None: `decode` does all of it."""
    decode: InstanceView
    source: PeerInfo | None
    """Holds more of the prompt than the one that computes it."""


class RequestFlow:
    """One Job; `run` once."""

    def __init__(
        self,
        job: Job,
        *,
        context: GatewayContext,
        upstream: Upstream,
        watch: InstanceWatch,
        desk: ReleaseDesk,
        client: ClientConnection,
    ) -> None:
        self._job = job
        self._context = context
        self._upstream = upstream
        self._watch = watch
        self._desk = desk
        self._client = client
        self._holder: InstanceView | None = None  # decode instance that may hold KV nobody will ask for

    async def run(self) -> None:
        """Raises ApiError when no instance could serve, what ended the request's scope when it was ended."""
        outcome = Outcome.FAILED
        try:
            outcome = await self._serve_somewhere()
        finally:
            self._context.scheduler.finish(self._job.id, outcome=outcome)
            if self._holder is not None:
                self._desk.release_soon(self._holder, self._job.id)

    async def _serve_somewhere(self) -> Outcome:
        excluded: frozenset[InstanceId] = frozenset()
        last: InstanceLost | None = None
        for attempt in range(1, MAX_ATTEMPTS + 1):
            alone = self._job.alone or attempt == MAX_ATTEMPTS
            try:
                return await self._attempt(self._decide(excluded, alone=alone))
            except InstanceLost as lost:
                last = lost
                excluded |= {lost.instance}
                await self._give_up_on(lost)
            except InstanceUnavailable as error:
                raise unavailable(f"{error}; last fault: {last}" if last else str(error)) from error
        raise unavailable(f"no instance could serve the request in {MAX_ATTEMPTS} attempts; last fault: {last}")

    async def _give_up_on(self, lost: InstanceLost) -> None:
        self._context.cluster.request_failed(lost.instance, lost.incarnation, str(lost))
        self._context.metrics.failovers.labels(lost.instance).inc()
        if self._client.status is not None:
            raise ApiError(f"the answer broke off: {lost}", status=HTTPStatus.INTERNAL_SERVER_ERROR) from lost
        holder, self._holder = self._holder, None
        if holder is None:
            return
        if holder.instance == lost.instance:
            self._desk.release_soon(holder, self._job.id)
        else:
            # It may be asked again under the same request id: what it holds goes before that.
            await self._desk.release(holder, self._job.id)

    def _decide(self, excluded: frozenset[InstanceId], *, alone: bool) -> _Route:
        view = self._context.cluster.view
        if alone and view.active(Role.DECODE, Role.COLOCATED):
            excluded |= {i.instance for i in view.instances if i.role is Role.PREFILL}
        decision = self._context.scheduler.decide(
            request=self._job.id,
            tokens=self._job.tokens,
            namespace=self._job.request.namespace(self._context.base_models),
            view=view,
            exclude=excluded,
            session=self._job.request.session or self._job.headers.get("x-session-id", ""),
        )
        self._context.history.decided(decision)
        decode = view.find(decision.decode)
        if decode is None:
            raise InstanceUnavailable(f"instance {decision.decode} is not in the cluster of epoch {view.epoch}")
        prefill = None if alone or decision.prefill is None else view.find(decision.prefill)
        self._context.scheduler.sent(self._job.id)
        computes = decode if prefill is None else prefill
        holder = view.find(decision.source) if decision.source is not None else None
        return _Route(
            prefill=prefill,
            decode=decode,
            source=holder.peer if holder is not None and holder is not computes else None,
        )

    async def _attempt(self, route: _Route) -> Outcome:
        cached_tokens = None
        if route.prefill is not None:
            cached_tokens = await self._prefill(route.prefill, route.decode, route.source)
            if cached_tokens is None:
                return Outcome.FAILED
        outcome = await self._decode(route, cached_tokens)
        if outcome is Outcome.SERVED:
            self._holder = None
        return outcome

    async def _prefill(self, prefill: InstanceView, decode: InstanceView, source: PeerInfo | None) -> int | None:
        """Prompt tokens found in a cache; None when the engine refused the request and the client was told."""
        transfer = self._context.switches.transfer
        body = request_body.prefill_body(
            self._job.request, request_id=self._job.id, decode=decode, transfer=transfer, source=source
        )
        self._holder = decode
        async with self._watch.using(prefill), self._to(prefill, body) as answer:
            content = await answer.read()
            if answer.status >= HTTPStatus.BAD_REQUEST:
                await self._client.send_whole(status=answer.status, body=content, headers=answer.headers())
                return None
        self._context.scheduler.prefilled(self._job.id)
        self._context.history.prefilled(self._job.id)
        report = response_body.report_of(content)
        if report is None:
            return 0
        return report.hbm_tokens + report.dram_tokens + report.disk_tokens

    async def _decode(self, route: _Route, cached_tokens: int | None) -> Outcome:
        decode = route.decode
        body = request_body.decode_body(
            self._job.request, request_id=self._job.id, prefill=route.prefill, source=route.source
        )
        async with self._watch.using(decode), self._to(decode, body) as answer:
            if answer.is_event_stream:
                await self._stream(decode, answer, cached_tokens)
            else:
                await self._pass_whole(answer, cached_tokens)
            return Outcome.SERVED if answer.status < HTTPStatus.BAD_REQUEST else Outcome.FAILED

    async def _pass_whole(self, answer: UpstreamAnswer, cached_tokens: int | None) -> None:
        content = await answer.read()
        content = response_body.rewrite_whole(content, cached_tokens=cached_tokens)
        await self._client.send_whole(status=answer.status, body=content, headers=answer.headers())

    async def _stream(self, decode: InstanceView, answer: UpstreamAnswer, cached_tokens: int | None) -> None:
        events = response_body.EventStream(cached_tokens=cached_tokens)
        async for chunk in answer.chunks():
            data = events.feed(chunk)
            if not data:
                continue
            if self._client.status is None:
                await self._begin_stream(decode, answer, data)
            await self._client.send(data)
        if self._client.status is None:
            raise _lost(decode, "ended its stream before the first event")
        await self._client.end(events.close())

    async def _begin_stream(self, decode: InstanceView, answer: UpstreamAnswer, data: bytes) -> None:
        if response_body.begins_with_engine_error(data):
            raise _lost(decode, f"began its stream with an error: {data[:300].decode('utf-8', 'replace')}")
        await self._client.start(status=answer.status, headers=answer.headers())
        self._context.scheduler.prefilled(self._job.id)  # alone or not, the first token ends the prefill
        self._context.metrics.ttft_s.observe(self._context.history.first_bytes(self._job.id))

    def _to(self, instance: InstanceView, body: bytes) -> AbstractAsyncContextManager[UpstreamAnswer]:
        return self._upstream.exchange(
            instance, method="POST", target=self._job.path, headers=self._job.headers, body=body
        )


def _lost(instance: InstanceView, why: str) -> InstanceLost:
    return InstanceLost(why, instance=instance.instance, incarnation=instance.incarnation)

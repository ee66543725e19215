"""One request's answer on its way from the instances to the client.

Owns what the client has been given so far and how each instance of a route adds to it:

    prefill ──> first token, if it may be given early ──> continued by decode, token by token
           └──> nothing ──> decode's own answer, passed on as it is
    lost in the middle ──> the next attempt continues after what was given

Decides no route and makes no second attempt: what happens after InstanceLost is the flow's.
"""

from array import array
from contextlib import AbstractAsyncContextManager
from http import HTTPStatus

import msgspec

from memserve.cluster.view import InstanceView
from memserve.core.enums import SERVING_ROLES, Phase
from memserve.gateway import continuable, request_body, response_body
from memserve.gateway.answer_form import EventForm
from memserve.gateway.client_connection import ClientConnection, RawHeaders
from memserve.gateway.context import GatewayContext
from memserve.gateway.engine_events import EngineEvent, EventCutter, read_events
from memserve.gateway.errors import ApiError, InstanceLost
from memserve.gateway.first_token import FirstToken, first_token, read_part
from memserve.gateway.job import Job, Route
from memserve.gateway.relay import Relay, note_first_bytes
from memserve.gateway.replay import Replay
from memserve.gateway.runtime import GatewayRuntime
from memserve.gateway.spoken_answer import SpokenAnswer, StreamedAnswer, WholeAnswer
from memserve.gateway.transcript import Transcript
from memserve.gateway.upstream import UpstreamAnswer
from memserve.scheduler.decision import Outcome
from memserve.wire.messages import RequestParams


class Delivery:
    """Of one Job; outlives its attempts."""

    def __init__(self, job: Job, runtime: GatewayRuntime, client: ClientConnection) -> None:
        self._job = job
        self._runtime = runtime
        self._context: GatewayContext = runtime.context
        self._client = client
        self._answer: SpokenAnswer | None = None
        self._follower: Transcript | Replay | None = None
        self.holder: InstanceView | None = None
        """Decode instance that may hold KV nobody will ask for."""

    @property
    def num_given(self) -> int:
        """Output tokens that the next attempt does not have to produce."""
        return len(self._answer.speech.tokens) if self._answer is not None else 0

    @property
    def is_over(self) -> bool:
        """The client has the last token, but not yet the end of its answer."""
        return self._answer is not None and self._answer.speech.last is not None

    def tokens(self) -> bytes:
        """What the next instance has to have KV of, for routing."""
        if self._answer is None:
            return self._job.tokens
        return array("i", [*self._answer.speech.prompt, *self._answer.speech.tokens]).tobytes()

    async def attempt(self, route: Route) -> Outcome:
        """Everything that is left to do. Raises InstanceLost when one of them does not do its part."""
        cached_tokens = None
        if route.prefill is not None:
            cached_tokens = await self._prefill(route, route.prefill)
            if cached_tokens is None:
                return Outcome.FAILED
        if self._answer is None:
            return await self._pass_on(route, cached_tokens)
        if self._answer.speech.last is None:
            if not await self._continue(route, self._answer):
                return Outcome.FAILED
            self.holder = None
        return await self.finish()

    async def finish(self) -> Outcome:
        """The end of an answer that is over."""
        if self._answer is not None:
            await self._answer.finish()
        return Outcome.SERVED

    async def prepare_resume(self, lost: InstanceLost) -> None:
        """Ready for the next attempt after part of a stream was sent. Raises ApiError when nobody can go on."""
        if isinstance(self._follower, Replay) and not self._follower.has_diverged:
            self._follower.rewind()
        elif self._answer is None and self._client.status is not None:
            self._answer = await self._resumed()
            if self._answer is None:
                raise ApiError(f"the answer broke off: {lost}", status=HTTPStatus.INTERNAL_SERVER_ERROR) from lost

    async def _resumed(self) -> StreamedAnswer | None:
        """The stream that an engine began, to be carried on here."""
        transcript, detokenizer = self._follower, self._context.model.detokenizer
        plan = self._job.plan
        if plan is None or detokenizer is None or not isinstance(transcript, Transcript) or transcript.head is None:
            return None
        limit = plan.max_tokens
        if limit is None:
            length = await self._context_length()
            limit = 0 if length is None else length - len(transcript.prompt or ())
        speech = transcript.speech(detokenizer, limit=limit) if limit > 0 else None
        if speech is None:
            return None
        if transcript.has_usage:
            plan = msgspec.structs.replace(plan, wants_usage=False)
        form = EventForm(plan, transcript.head, cached_tokens=0)
        return StreamedAnswer(speech, form, self._client, headers=[])

    async def _context_length(self) -> int | None:
        """As any instance tells it."""
        for instance in self._context.cluster.view.active(*SERVING_ROLES):
            length = await self._runtime.cards.context_length(instance, self._runtime.upstream)
            if length is not None:
                return length
        return None

    # ------------------------------------------------------------ prefill

    async def _prefill(self, route: Route, prefill: InstanceView) -> int | None:
        """Prompt tokens found in a cache; None when the engine refused the request and the client was told."""
        params = RequestParams(
            request=self._job.id,
            phase=Phase.PREFILL,
            peer=route.decode.peer,
            transfer=self._context.switches.transfer,
            source=route.source,
        )
        self.holder = route.decode
        async with self._runtime.watch.using(prefill), self._ask(prefill, self._prefill_body(params)) as answer:
            content = await answer.read()
            if answer.status >= HTTPStatus.BAD_REQUEST:
                await self._refuse_or_send(prefill, answer, content)
                return None
        self._context.scheduler.prefilled(self._job.id)
        self._context.history.prefilled(self._job.id)
        report = response_body.report_of(content)
        cached_tokens = 0 if report is None else report.hbm_tokens + report.dram_tokens + report.disk_tokens
        if self._answer is None:
            await self._begin(prefill, content, cached_tokens, answer.headers())
        else:
            await self._say_part(prefill, content, self._answer)
        return cached_tokens

    def _prefill_body(self, params: RequestParams) -> bytes:
        if self._answer is not None:
            return self._continuation_body(self._answer, params)
        if self._job.plan is not None:
            return continuable.first_token_body(self._job.plan, params)
        return request_body.prefill_body(self._job.request, params)

    async def _refuse_or_send(self, instance: InstanceView, answer: UpstreamAnswer, content: bytes) -> None:
        if self._client.status is not None:
            told = content[:300].decode("utf-8", "replace")
            raise ApiError(
                f"instance {instance.instance} refused to continue the answer with {answer.status}: {told}",
                status=HTTPStatus.INTERNAL_SERVER_ERROR,
            )
        await self._client.send_whole(status=answer.status, body=content, headers=answer.headers())

    async def _begin(self, prefill: InstanceView, content: bytes, cached_tokens: int, headers: RawHeaders) -> None:
        """The first token goes to the client at once, where it may."""
        plan, detokenizer = self._job.plan, self._context.model.detokenizer
        if plan is None or detokenizer is None:
            return
        length = await self._runtime.cards.context_length(prefill, self._runtime.upstream)
        if length is None:
            return
        first = first_token(plan, content, detokenizer=detokenizer, context_length=length)
        if first is None:
            return
        self._answer = self._new_answer(first, content, cached_tokens, headers)
        await self._answer.say(first.piece)
        self._context.metrics.first_tokens_early.inc()
        self._context.history.began_early(self._job.id)
        if self._client.status is not None:
            note_first_bytes(self._context, self._job.id)

    def _new_answer(self, first: FirstToken, content: bytes, cached_tokens: int, headers: RawHeaders) -> SpokenAnswer:
        speech, client = first.speech, self._client
        if not speech.plan.is_stream:
            return WholeAnswer(
                speech, msgspec.json.decode(content), client, cached_tokens=cached_tokens, headers=headers
            )
        form = EventForm(speech.plan, first.head, cached_tokens=cached_tokens)
        return StreamedAnswer(speech, form, client, headers=headers)

    async def _say_part(self, prefill: InstanceView, content: bytes, answer: SpokenAnswer) -> None:
        part = read_part(content)
        if part is None:
            raise _lost(prefill, "gave no next token")
        piece = answer.speech.take(part.tokens, finish_reason=part.finish_reason, stop_reason=part.stop_reason)
        await answer.say(piece)

    # ------------------------------------------------------------ decode

    async def _continue(self, route: Route, answer: SpokenAnswer) -> bool:
        """Token by token until the answer is over; False when the engine refused and the client was told."""
        decode = route.decode
        body = self._continuation_body(answer, self._decode_params(route, num_given=1))
        cutter = EventCutter()
        async with self._runtime.watch.using(decode), self._ask(decode, body) as upstream:
            if upstream.status >= HTTPStatus.BAD_REQUEST:
                await self._refuse_or_send(decode, upstream, await upstream.read())
                return False
            async for chunk in upstream.chunks():
                for _, event in read_events(cutter.feed(chunk)):
                    if event is not None and event.fault:
                        raise _lost(decode, f"gave the answer up: {event.fault}")
                    if event is not None:
                        await self._say_event(event, answer)
                    if answer.speech.last is not None:
                        return True
        raise _lost(decode, "ended its stream before the answer was over")

    async def _say_event(self, event: EngineEvent, answer: SpokenAnswer) -> None:
        if event.system_fingerprint is not None:
            answer.stamp(event.system_fingerprint)
        for choice in event.choices:
            piece = answer.speech.take(
                choice.token_ids or (), finish_reason=choice.finish_reason, stop_reason=choice.stop_reason
            )
            await answer.say(piece)

    def _continuation_body(self, answer: SpokenAnswer, params: RequestParams) -> bytes:
        speech = answer.speech
        return continuable.continuation_body(
            speech.plan, prompt=speech.prompt, output=speech.tokens, num_left=speech.num_left, params=params
        )

    def _decode_params(self, route: Route, *, num_given: int = 0) -> RequestParams:
        if route.prefill is None:
            return RequestParams(request=self._job.id, phase=Phase.WHOLE, source=route.source)
        return RequestParams(request=self._job.id, phase=Phase.DECODE, peer=route.prefill.peer, num_given=num_given)

    async def _pass_on(self, route: Route, cached_tokens: int | None) -> Outcome:
        """The decode instance's answer to the client's own request."""
        decode, params, plan = route.decode, self._decode_params(route), self._job.plan
        if plan is not None and plan.is_stream:
            body = continuable.followed_body(plan, params)
            self._follower = Transcript(plan)
        else:
            body = request_body.decode_body(self._job.request, params)
            if self._follower is None and continuable.can_be_replayed(self._job.request):
                self._follower = Replay()
        async with self._runtime.watch.using(decode), self._ask(decode, body) as answer:
            if answer.is_event_stream:
                await self._relay(cached_tokens).run(decode, answer)
            else:
                content = response_body.rewrite_whole(await answer.read(), cached_tokens=cached_tokens)
                await self._refuse_or_send(decode, answer, content)
        if answer.status >= HTTPStatus.BAD_REQUEST:
            return Outcome.FAILED
        self.holder = None
        return Outcome.SERVED

    def _relay(self, cached_tokens: int | None) -> Relay:
        return Relay(
            self._job.id,
            context=self._context,
            client=self._client,
            follower=self._follower,
            cached_tokens=cached_tokens,
        )

    def _ask(self, instance: InstanceView, body: bytes) -> AbstractAsyncContextManager[UpstreamAnswer]:
        path = self._job.path if self._answer is None else continuable.CONTINUATION_PATH
        return self._runtime.upstream.exchange(
            instance, method="POST", target=path, headers=self._job.headers, body=body
        )


def _lost(instance: InstanceView, why: str) -> InstanceLost:
    return InstanceLost(why, instance=instance.instance, incarnation=instance.incarnation)

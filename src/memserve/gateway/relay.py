"""An engine's own stream on its way to the client, event by event, followed so that another one can take over.

Owns when the client's answer begins and what counts as the engine's failure. Changes nothing but the number of
cached tokens and what the follower hides.
"""

from http import HTTPStatus

from memserve.cluster.view import InstanceView
from memserve.core.ids import RequestId
from memserve.gateway import response_body
from memserve.gateway.client_connection import ClientConnection
from memserve.gateway.context import GatewayContext
from memserve.gateway.engine_events import EventCutter
from memserve.gateway.errors import ApiError, InstanceLost
from memserve.gateway.replay import Replay
from memserve.gateway.transcript import Transcript
from memserve.gateway.upstream import UpstreamAnswer


class Relay:
    """Of one attempt."""

    def __init__(
        self,
        request: RequestId,
        *,
        context: GatewayContext,
        client: ClientConnection,
        follower: Transcript | Replay | None,
        cached_tokens: int | None,
    ) -> None:
        self._request = request
        self._context = context
        self._client = client
        self._follower = follower
        self._cached_tokens = cached_tokens

    async def run(self, decode: InstanceView, answer: UpstreamAnswer) -> None:
        """Until the stream has ended. Raises InstanceLost when it does not end as it should."""
        cutter, follower = EventCutter(), self._follower
        async for chunk in answer.chunks():
            data = response_body.put_usage_right(cutter.feed(chunk), cached_tokens=self._cached_tokens)
            if not data:
                continue
            if self._client.status is None and response_body.begins_with_engine_error(data):
                raise _lost(decode, f"began its stream with an error: {data[:300].decode('utf-8', 'replace')}")
            data = follower.pass_on(data) if follower is not None else data
            if data:
                await self._send(answer, data)
            self._check(decode)
        if self._client.status is None:
            raise _lost(decode, "ended its stream before the first event")
        if follower is not None and not follower.has_ended:
            raise _lost(decode, "ended its stream before the answer was over")
        await self._client.end(cutter.close())

    def _check(self, decode: InstanceView) -> None:
        if self._follower is None:
            return
        if self._follower.fault:
            raise _lost(decode, f"gave the answer up: {self._follower.fault}")
        if isinstance(self._follower, Replay) and self._follower.has_diverged:
            raise ApiError(
                f"the answer broke off: instance {decode.instance} gave another one than the instance before it",
                status=HTTPStatus.INTERNAL_SERVER_ERROR,
            )

    async def _send(self, answer: UpstreamAnswer, data: bytes) -> None:
        if self._client.status is None:
            await self._client.start(status=answer.status, headers=answer.headers())
            self._context.scheduler.prefilled(self._request)  # alone or not, the first token ends the prefill
            note_first_bytes(self._context, self._request)
        await self._client.send(data)


def note_first_bytes(context: GatewayContext, request: RequestId) -> None:
    """The client's stream has begun."""
    context.metrics.ttft_s.observe(context.history.first_bytes(request))


def _lost(instance: InstanceView, why: str) -> InstanceLost:
    return InstanceLost(why, instance=instance.instance, incarnation=instance.incarnation)

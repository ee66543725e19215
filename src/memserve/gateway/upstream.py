"""Requests to the instances: every fault told as InstanceLost.

Owns what of a client's headers goes on, and back. Never retries and never chooses an instance. The deadline of the
whole exchange belongs to the caller; only connecting has one here.

Failure model: cannot connect, connection cut, 5xx -> InstanceLost. 501 and 4xx are the engine's answer
to the request, not a fault, and come back as answers. Leaving the block early closes the connection,
which is how vLLM learns to abort.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus

from multidict import CIMultiDict
from starlette.datastructures import Headers

from memserve.cluster.view import InstanceView
from memserve.gateway.client_connection import RawHeaders
from memserve.gateway.engine_http import EngineAnswer, EngineConnections, EngineHttpError
from memserve.gateway.errors import InstanceLost
from memserve.security.https import reason_of, towards_instances
from memserve.security.secret import ClusterSecret

_EXCERPT_CHARS = 300
_MAX_ANSWER_BYTES = 256 << 20

_HOP_BY_HOP = frozenset(
    {
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer"),
        *("transfer-encoding", "upgrade", "host", "content-length", "expect", "accept-encoding", "date", "server"),
    }
)
_HOP_BY_HOP_RAW = frozenset(name.encode() for name in _HOP_BY_HOP)


class UpstreamAnswer:
    """Status and headers have come; the body is still to be read."""

    def __init__(self, answer: EngineAnswer) -> None:
        self._answer = answer
        self.status = answer.status

    @property
    def is_event_stream(self) -> bool:
        return self._answer.header(b"content-type").partition(";")[0].strip().lower() == "text/event-stream"

    def headers(self) -> RawHeaders:
        """Those that concern the client."""
        return [(k, v) for k, v in self._answer.headers if k.lower() not in _HOP_BY_HOP_RAW]

    async def read(self) -> bytes:
        """The whole body. Raises InstanceLost, through the block, when it does not come whole."""
        body = bytearray()
        async for chunk in self._answer.chunks():
            body += chunk
            if len(body) > _MAX_ANSWER_BYTES:
                raise EngineHttpError(f"the answer exceeds {_MAX_ANSWER_BYTES} bytes")
        return bytes(body)

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes."""
        return self._answer.chunks()


class Upstream:
    """Open once per process, inside the event loop; close at the end."""

    def __init__(self, secret: ClusterSecret | None = None) -> None:
        """With a `secret`, instances are talked to by TLS, and only when they know it, too."""
        self._connections = EngineConnections(tls=towards_instances(secret))

    async def close(self) -> None:
        await self._connections.close()

    @asynccontextmanager
    async def exchange(
        self, instance: InstanceView, *, method: str, target: str, headers: CIMultiDict[str], body: bytes
    ) -> AsyncIterator[UpstreamAnswer]:
        """Send the request, give its answer. `target` is path and query, already quoted; `headers` from
        `forwarded_headers`."""
        try:
            answer = await self._connections.ask(
                instance.url, method=method, target=target, headers=headers.items(), body=body
            )
            try:
                if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR and answer.status != HTTPStatus.NOT_IMPLEMENTED:
                    raise _lost(instance, f"answered {answer.status}: {await _excerpt(answer)}")
                yield UpstreamAnswer(answer)
            finally:
                answer.leave()
        except OSError as error:
            raise _lost(instance, f"failed at {target}: {reason_of(error)}") from error


def forwarded_headers(headers: Headers) -> CIMultiDict[str]:
    """The client's headers as an engine gets them; answers must come uncompressed to be read here."""
    forwarded: CIMultiDict[str] = CIMultiDict((k, v) for k, v in headers.items() if k not in _HOP_BY_HOP)
    forwarded["Accept-Encoding"] = "identity"
    return forwarded


async def _excerpt(answer: EngineAnswer) -> str:
    start = await anext(answer.chunks(), b"")
    return start[:_EXCERPT_CHARS].decode("utf-8", "replace")


def _lost(instance: InstanceView, why: str) -> InstanceLost:
    return InstanceLost(why, instance=instance.instance, incarnation=instance.incarnation)

"""Requests to the instances: every fault told as InstanceLost.

Owns what of a client's headers goes on, and back. Never retries and never chooses an instance. The deadline of the
whole exchange belongs to the caller; only connecting has one here.

Failure model: cannot connect, connection cut, 5xx -> InstanceLost. 501 and 4xx are the engine's answer
to the request, not a fault, and come back as answers. Leaving the block early closes the connection,
which is how vLLM learns to abort.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from http import HTTPStatus
from types import TracebackType

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
        *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te", b"trailer"),
        *(b"transfer-encoding", b"upgrade", b"host", b"content-length", b"expect", b"accept-encoding"),
        *(b"date", b"server"),
    }
)
_UNCOMPRESSED = (b"accept-encoding", b"identity")


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
        return [(k, v) for k, v in self._answer.headers if k.lower() not in _HOP_BY_HOP]

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

    def exchange(
        self, instance: InstanceView, *, method: str, target: str, headers: RawHeaders, body: bytes
    ) -> "_Exchange":
        """Send the request and give its answer to the block, which ends the exchange. `target` is path and query,
        already quoted; `headers` from `forwarded_headers`."""
        ask = partial(self._connections.ask, instance.url, method=method, target=target, headers=headers, body=body)
        return _Exchange(ask, instance, target)


class _Exchange:
    """One request, sent when the block is entered."""

    __slots__ = ("_answer", "_ask", "_instance", "_target")

    def __init__(self, ask: Callable[[], Awaitable[EngineAnswer]], instance: InstanceView, target: str) -> None:
        self._ask = ask
        self._instance = instance
        self._target = target

    async def __aenter__(self) -> UpstreamAnswer:
        try:
            answer = self._answer = await self._ask()
            if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR and answer.status != HTTPStatus.NOT_IMPLEMENTED:
                try:
                    raise _lost(self._instance, f"answered {answer.status}: {await _excerpt(answer)}")
                finally:
                    answer.leave()
        except OSError as error:
            raise self._failed(error) from error
        return UpstreamAnswer(answer)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._answer.leave()
        if isinstance(error, OSError):
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> InstanceLost:
        return _lost(self._instance, f"failed at {self._target}: {reason_of(error)}")


def forwarded_headers(headers: Headers, *, own: Sequence[tuple[bytes, bytes]] = ()) -> RawHeaders:
    """The client's headers as an engine gets them, and our `own` in place of the client's of these names.

    Answers must come uncompressed to be read here.
    """
    names = {name for name, _ in own}
    kept = [(k, v) for k, v in headers.raw if k not in _HOP_BY_HOP and k not in names]
    return [*kept, _UNCOMPRESSED, *own]


async def _excerpt(answer: EngineAnswer) -> str:
    start = await anext(answer.chunks(), b"")
    return start[:_EXCERPT_CHARS].decode("utf-8", "replace")


def _lost(instance: InstanceView, why: str) -> InstanceLost:
    return InstanceLost(why, instance=instance.instance, incarnation=instance.incarnation)

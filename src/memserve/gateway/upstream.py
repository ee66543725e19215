"""HTTP to the instances: one shared client, every fault told as InstanceLost.

Owns the connections. Never retries and never chooses an instance. The deadline of the whole exchange
belongs to the caller; only connecting has one here.

Failure model: cannot connect, connection cut, 5xx -> InstanceLost. 501 and 4xx are the engine's answer
to the request, not a fault, and come back as answers. Leaving the block early closes the connection,
which is how vLLM learns to abort.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus

import aiohttp
from multidict import CIMultiDict
from starlette.datastructures import Headers
from yarl import URL

from memserve.cluster.view import InstanceView
from memserve.gateway.client_connection import RawHeaders
from memserve.gateway.errors import InstanceLost
from memserve.security.https import reason_of, towards_instances
from memserve.security.secret import ClusterSecret

_CONNECT_DEADLINE_S = 3.0
# vLLM closes idle connections after 5 s; reusing one at that moment would look like a failed instance.
_KEEP_ALIVE_S = 2.0
_EXCERPT_CHARS = 300
_MAX_ANSWER_BYTES = 256 << 20

_HOP_BY_HOP = frozenset(
    {
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer"),
        *("transfer-encoding", "upgrade", "host", "content-length", "expect", "accept-encoding", "date", "server"),
    }
)


class UpstreamAnswer:
    """Status and headers have come; the body is still to be read."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status

    @property
    def is_event_stream(self) -> bool:
        return self._response.content_type == "text/event-stream"

    def headers(self) -> RawHeaders:
        """Those that concern the client."""
        return [(k, v) for k, v in self._response.raw_headers if k.decode("latin-1").lower() not in _HOP_BY_HOP]

    async def read(self) -> bytes:
        """The whole body. Raises InstanceLost, through the block, when it does not come whole."""
        body = bytearray()
        async for chunk in self._response.content.iter_any():
            body += chunk
            if len(body) > _MAX_ANSWER_BYTES:
                raise aiohttp.ClientPayloadError(f"the answer exceeds {_MAX_ANSWER_BYTES} bytes")
        return bytes(body)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes."""
        async for chunk in self._response.content.iter_any():
            yield chunk


class Upstream:
    """Open once per process, inside the event loop; close at the end."""

    def __init__(self, secret: ClusterSecret | None = None) -> None:
        """With a `secret`, instances are talked to by TLS, and only when they know it, too."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S, ssl=towards_instances(secret)),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_DEADLINE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Content-Type"),
        )

    async def close(self) -> None:
        await self._session.close()

    @asynccontextmanager
    async def exchange(
        self, instance: InstanceView, *, method: str, target: str, headers: CIMultiDict[str], body: bytes
    ) -> AsyncIterator[UpstreamAnswer]:
        """Send the request, give its answer. `target` is path and query, already quoted; `headers` from
        `forwarded_headers`."""
        url = URL(instance.url.rstrip("/") + target, encoded=True)
        try:
            async with self._session.request(
                method, url, data=body or None, headers=headers, allow_redirects=False
            ) as response:
                if (
                    response.status >= HTTPStatus.INTERNAL_SERVER_ERROR
                    and response.status != HTTPStatus.NOT_IMPLEMENTED
                ):
                    raise _lost(instance, f"answered {response.status}: {await _excerpt(response)}")
                yield UpstreamAnswer(response)
        except (aiohttp.ClientError, ConnectionError) as error:
            raise _lost(instance, f"failed at {target}: {reason_of(error)}") from error


def forwarded_headers(headers: Headers) -> CIMultiDict[str]:
    """The client's headers as an engine gets them; answers must come uncompressed to be read here."""
    forwarded: CIMultiDict[str] = CIMultiDict((k, v) for k, v in headers.items() if k not in _HOP_BY_HOP)
    forwarded["Accept-Encoding"] = "identity"
    return forwarded


async def _excerpt(response: aiohttp.ClientResponse) -> str:
    start = await response.content.read(_EXCERPT_CHARS)
    return start.decode("utf-8", "replace")


def _lost(instance: InstanceView, why: str) -> InstanceLost:
    return InstanceLost(why, instance=instance.instance, incarnation=instance.incarnation)

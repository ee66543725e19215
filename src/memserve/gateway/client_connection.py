"""One client's side of one HTTP exchange: its bounded body, its hang-up, and what is sent to it.

Owns the ASGI channel of the exchange. Never looks into what passes through. A slow reader holds up only
itself: `send` waits until its socket takes the bytes.

    body unread -> read -> started -> ended
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable
from http import HTTPStatus
from types import TracebackType
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from memserve.core.errors import DeadlineExceeded
from memserve.gateway.ending import Scope, scope
from memserve.gateway.errors import ApiError, ClientGone

MAX_BODY_BYTES = 32 << 20
_BODY_DEADLINE_S = 60.0
_ERROR_DEADLINE_S = 5.0
_MAX_DISCARDED_BYTES = 4 * MAX_BODY_BYTES

RawHeaders = list[tuple[bytes, bytes]]
JSON_HEADERS: RawHeaders = [(b"content-type", b"application/json")]
DONE_EVENT = b"data: [DONE]\n\n"


class ClientConnection:
    def __init__(self, asgi_scope: AsgiScope, receive: Receive, send: Send) -> None:
        self.headers = Headers(scope=asgi_scope)
        self.extra_headers: RawHeaders = []
        """Added to whatever answer is sent."""
        self._receive = receive
        self._send = send
        self._status: int | None = None
        self._complete = False

    @property
    def status(self) -> int | None:
        """Status that was sent; None before."""
        return self._status

    async def read_body(self) -> bytes:
        """The whole body. Raises ApiError 413 beyond 32 MiB, 408 when it does not come; ClientGone."""
        try:
            async with scope(deadline_s=_BODY_DEADLINE_S):
                return await self._read_body()
        except DeadlineExceeded as error:
            raise ApiError(
                f"the request body did not arrive within {_BODY_DEADLINE_S:g} s", status=HTTPStatus.REQUEST_TIMEOUT
            ) from error

    async def _read_body(self) -> bytes:
        chunks: list[bytes] = []
        size = 0
        async for chunk in self._body_chunks():
            size += len(chunk)
            if size > MAX_BODY_BYTES:
                chunks.clear()
            elif chunk:
                chunks.append(chunk)
            if size > _MAX_DISCARDED_BYTES:
                break
        if size > MAX_BODY_BYTES:
            raise ApiError(
                f"the request body exceeds {MAX_BODY_BYTES} bytes; send a shorter prompt",
                status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            )
        return b"".join(chunks)

    async def _body_chunks(self) -> AsyncIterator[bytes]:
        # What is too long is read on and dropped: a client that is still sending would not see our answer.
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone("the client left while it sent its request")
            yield message.get("body", b"")
            more = message.get("more_body", False)

    def ends(self, work: Scope) -> "_HangUpWatch":
        """For the length of the block, a hang-up ends `work` with ClientGone. Needs the body to be read."""
        return _HangUpWatch(self._end_when_gone(work))

    async def _end_when_gone(self, work: Scope) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        # Servers also say "disconnect" once the answer is complete; that ends nothing.
        if not self._complete:
            work.end(ClientGone("the client hung up"))

    async def send_whole(self, *, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]]) -> None:
        await self.start(status=status, headers=[*headers, (b"content-length", b"%d" % len(body))])
        await self.end(body)

    async def start(self, *, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Send status and headers; from here on the answer cannot become another one."""
        self._status = status
        await self._send({"type": "http.response.start", "status": status, "headers": [*headers, *self.extra_headers]})

    async def send(self, chunk: bytes) -> None:
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def end(self, chunk: bytes = b"") -> None:
        """Send the last bytes; the answer is complete."""
        self._complete = True
        await self._send({"type": "http.response.body", "body": chunk})

    async def flushed(self) -> None:
        """Until the server has put what was sent on its socket, which it does when the task that sent it pauses."""
        await asyncio.sleep(0)

    async def fail(self, error: ApiError) -> None:
        """An error answer; inside a stream an error event and the end of the stream, as vLLM does it.

        Nothing when the answer is complete: the client has what it asked for.
        """
        if self._complete:
            return
        try:
            async with scope(deadline_s=_ERROR_DEADLINE_S):
                if self._status is None:
                    headers = [*JSON_HEADERS, *error.headers]
                    await self.send_whole(status=error.status, body=error.body(), headers=headers)
                else:
                    await self.end(b"data: " + error.body() + b"\n\n" + DONE_EVENT)
        except DeadlineExceeded as late:
            raise ClientGone("the client does not read its error") from late


class _HangUpWatch:
    """Runs beside one block."""

    __slots__ = ("_watcher", "_watching")

    def __init__(self, watching: Coroutine[Any, Any, None]) -> None:
        self._watching = watching

    async def __aenter__(self) -> None:
        self._watcher = asyncio.get_running_loop().create_task(self._watching)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._watcher.done():  # it is when a complete answer was flushed: then there is nothing to wait for
            self._watcher.cancel()
            await asyncio.wait({self._watcher})

"""HTTP/1.1 to the engines, as far as they speak it: requests with a whole body, answers read as they come.

Owns the connections, open ones that wait for their next request included. Parsing is httptools' (llhttp). There are
no redirects, cookies, proxies, compression or retries here, which is what makes it cost a third of a general client.
A slow reader holds up only its own connection: beyond _MAX_UNREAD bytes nothing more is taken from its socket.

    connected -> request sent -> head has come -> body has come -> idle, KEEP_ALIVE_S at most -> closed, or sent again
                     └── cut, broken or left early ──> closed

Failure model: EngineHttpError tells that no whole answer came, and why.
"""

import asyncio
import ssl
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from typing import cast
from urllib.parse import SplitResult, urlsplit

import httptools

CONNECT_DEADLINE_S = 3.0
# vLLM closes idle connections after 5 s; reusing one at that moment would look like a failed instance.
KEEP_ALIVE_S = 2.0
_MAX_UNREAD = 1 << 20
_MAX_HEAD_BYTES = 1 << 18
_CONTINUE_BELOW = 200
_PORTS = {"http": 80, "https": 443}

RawHeaders = list[tuple[bytes, bytes]]


class EngineHttpError(ConnectionError):
    """The engine gave no whole answer; whoever asked takes it for lost."""


class EngineAnswer:
    """Status and headers have come; the body is still to be read. Always to be left in the end."""

    def __init__(self, connection: "_Connection", idle: "list[_Connection]") -> None:
        self.status = connection.status
        self.headers = connection.headers
        self._connection = connection
        self._idle = idle

    def header(self, name: bytes) -> str:
        """The first one of this name, which is in lower case; "" without one."""
        return next((value.decode("latin-1") for key, value in self.headers if key.lower() == name), "")

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises EngineHttpError when it breaks off."""
        while chunk := await self._connection.read():
            yield chunk

    def leave(self) -> None:
        """Nothing more is read. Unless the answer has come whole the connection is closed, which is how vLLM learns
        to abort."""
        self._connection.be_idle(self._idle)


class _Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self.status = 0
        """0: the head has not come."""
        self.headers: RawHeaders = []
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self._head_bytes = 0
        self._body: list[bytes] = []
        self._unread = 0
        self._is_paused = False
        self._is_head = False
        self._is_complete = True
        self._error: EngineHttpError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._expiry: asyncio.TimerHandle | None = None

    # ------------------------------------------------------------ for the pool

    @property
    def is_usable(self) -> bool:
        """Whether another request can be sent on it."""
        return self._is_complete and self._error is None and not self._is_head and not self._transport.is_closing()

    async def ask(self, request: bytes, *, is_head: bool) -> None:
        """Send a request and wait for the head of its answer."""
        if self._expiry is not None:
            self._expiry.cancel()
        self.headers, self._head_bytes, self.status = [], 0, 0
        self._take_body()
        self._is_complete, self._is_head = False, is_head
        self._transport.write(request)
        while not self.status:
            await self._progress()

    async def read(self) -> bytes:
        """What has come of the body and was not read; b"" at its end."""
        while not self._body:
            if self._is_complete:
                return b""
            await self._progress()
        return self._take_body()

    def be_idle(self, among: "list[_Connection]") -> None:
        """Wait there for the next request, or be closed where that cannot be."""
        if not self.is_usable:
            self.close()
            return
        self._expiry = asyncio.get_running_loop().call_later(KEEP_ALIVE_S, self._expire, among)
        among.append(self)

    def _expire(self, among: "list[_Connection]") -> None:
        if self in among:
            among.remove(self)
        self.close()

    def _take_body(self) -> bytes:
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        self._unread = 0
        if self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()
        return body

    def close(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        self._transport.abort()

    async def _progress(self) -> None:
        """Until something has come. Raises EngineHttpError when nothing more will."""
        if self._error is not None:
            raise self._error
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, why: str) -> None:
        if self._error is None:
            self._error = EngineHttpError(why)
        self.close()
        self._wake()

    # ------------------------------------------------------------ asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one by its methods only

    def data_received(self, data: bytes) -> None:
        if self._is_complete:
            self._fail("sent more than was asked for")
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(f"does not speak HTTP: {error or type(error).__name__}")
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._is_complete and self._ends_with_connection() and exc is None:
            self._is_complete = True
        self._fail(f"cut the connection{f': {exc}' if exc else ''}")

    def _ends_with_connection(self) -> bool:
        """Whether the body has no other end than the connection's."""
        names = {name.lower() for name, _ in self.headers}
        return bool(self.status) and not names & {b"content-length", b"transfer-encoding"}

    # ------------------------------------------------------------ httptools

    def on_message_begin(self) -> None:
        if self._is_complete:
            raise EngineHttpError("sent more than was asked for")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > _MAX_HEAD_BYTES:
            raise EngineHttpError(f"sent headers of more than {_MAX_HEAD_BYTES} bytes")
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < _CONTINUE_BELOW:
            self.headers = []
            return
        self.status = status
        self._is_complete = self._is_head

    def on_body(self, body: bytes) -> None:
        self._body.append(body)
        self._unread += len(body)
        if self._unread > _MAX_UNREAD and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        if self.status:
            self._is_complete = True
            if not self._parser.should_keep_alive():
                self._transport.close()

    def __repr__(self) -> str:
        return f"_Connection(status={self.status}, complete={self._is_complete}, error={self._error!r})"


class EngineConnections:
    """To all engines. Open inside the event loop; close at the end."""

    def __init__(self, *, tls: ssl.SSLContext | bool = True) -> None:
        """`tls`: how engines with https URLs are to prove who they are; True: as anybody in the web does."""
        self._tls = tls
        self._idle: defaultdict[str, list[_Connection]] = defaultdict(list)

    async def ask(
        self, base: str, *, method: str, target: str, headers: Iterable[tuple[bytes, bytes]], body: bytes
    ) -> EngineAnswer:
        """Ask the engine at URL `base`; `target` is path and query, already quoted.

        Raises OSError when it cannot be reached, EngineHttpError among them when it gives no answer.
        """
        url = urlsplit(base)
        connection = self._take(base) or await _connected(url, tls=self._tls)
        try:
            request = _written(url, method=method, target=target, headers=headers, body=body)
            await connection.ask(request, is_head=method == "HEAD")
        except BaseException:
            connection.close()
            raise
        return EngineAnswer(connection, self._idle[base])

    async def close(self) -> None:
        for waiting in self._idle.values():
            for connection in waiting:
                connection.close()
        self._idle.clear()

    def _take(self, base: str) -> _Connection | None:
        waiting = self._idle[base]
        while waiting:
            connection = waiting.pop()
            if connection.is_usable:
                return connection
        return None

    def __repr__(self) -> str:
        return f"EngineConnections({ {base: len(waiting) for base, waiting in self._idle.items()} } idle)"


async def _connected(url: SplitResult, *, tls: ssl.SSLContext | bool) -> _Connection:
    """Raises OSError when it takes longer than CONNECT_DEADLINE_S, too."""
    port = url.port or _PORTS.get(url.scheme)
    if port is None or url.hostname is None:
        raise EngineHttpError(f"has no usable URL: {url.geturl()}")
    try:
        async with asyncio.timeout(CONNECT_DEADLINE_S):
            _, connection = await asyncio.get_running_loop().create_connection(
                _Connection, url.hostname, port, ssl=tls if url.scheme == "https" else None
            )
    except TimeoutError as error:
        raise EngineHttpError(f"cannot be connected to within {CONNECT_DEADLINE_S:g} s") from error
    return connection


def _written(
    url: SplitResult, *, method: str, target: str, headers: Iterable[tuple[bytes, bytes]], body: bytes
) -> bytes:
    """One write for head and body: each costs a system call."""
    parts = [f"{method} {url.path.rstrip('/')}{target} HTTP/1.1\r\nhost: {url.netloc}\r\n".encode("latin-1")]
    parts += [b"%b: %b\r\n" % header for header in headers]
    if body or method not in {"GET", "HEAD", "OPTIONS", "DELETE"}:
        parts.append(b"content-length: %d\r\n" % len(body))
    return b"".join((*parts, b"\r\n", body))

"""Typed request and reply over ZMQ: one ROUTER server, any number of DEALER clients, on asyncio.

Owns the sockets, the correlation of replies with calls, deadlines and bounds; knows no message by name
but ErrorReply. Frames are [call id, message]; a server also sees who sent them. A handler's exception
becomes an ErrorReply and is raised again, typed, at the client. With a cluster secret both ends prove to know
it before a frame is read, and all of them are encrypted (curve.py).

    server: start -> serving -> close        client: first call connects -> calls -> close

Bounds: a message of at most MAX_CONTROL_BYTES (ZMQ drops the connection beyond), `max_in_flight` handlers
or calls at once (more wait; a client's wait counts against its deadline). What cannot be read is counted,
answered with a ProtocolError where its call id is known, and dropped otherwise.
"""

import asyncio
import itertools
import logging
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

import msgspec
from zmq.asyncio import Context
from zmq.constants import SocketOption, SocketType
from zmq.error import ZMQError

from memserve.core.errors import ConfigError, DeadlineExceeded, InstanceUnavailable, ProtocolError, SecretRefused
from memserve.rpc.curve import OVERHEAD_BYTES, Doorman, as_client, as_server
from memserve.rpc.faults import to_error, to_reply
from memserve.rpc.handshakes import Handshakes
from memserve.security.secret import ClusterSecret
from memserve.wire.codec import MAX_CONTROL_BYTES, Codec
from memserve.wire.messages import ErrorReply

M = TypeVar("M")

Sender = bytes
"""Names one client for as long as it lives; a reconnect keeps it."""

_CALL_ID_BYTES = 8
_HIGH_WATER = 1024
_HANDSHAKE_MS = 10_000
"""Who has not introduced itself by then is disconnected."""
_log = logging.getLogger(__name__)


class ServerStats(msgspec.Struct, frozen=True, kw_only=True):
    num_requests: int
    num_malformed: int
    num_in_flight: int


class RpcServer(Generic[M]):
    """Answers each request of `union` with what `handler` returns."""

    def __init__(
        self,
        bind: str,
        handler: Callable[[M, Sender], Awaitable[M]],
        union: Any,
        *,
        port: int = 0,
        advertise: str = "",
        max_in_flight: int = 256,
        secret: ClusterSecret | None = None,
    ) -> None:
        """`bind` is an address of this host; port 0 takes a free one. Nothing listens before `start`.

        `advertise` stands in the endpoint in place of the address that is bound. With a `secret`, clients that do
        not know it are not heard.
        """
        self._secret = secret
        self._doorman: Doorman | None = None
        self._advertise = advertise
        self._bind = bind
        self._port = port
        self._handler = handler
        self._codec: Codec[Any] = Codec(union)
        self._slots = asyncio.Semaphore(max_in_flight)
        self._context = Context()
        self._socket: Any = None
        self._receiver: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._num_requests = 0
        self._num_malformed = 0
        self._endpoint = ""

    @property
    def endpoint(self) -> str:
        """Where clients connect, e.g. tcp://127.0.0.1:49152; "" before `start`."""
        return self._endpoint

    def stats(self) -> ServerStats:
        return ServerStats(
            num_requests=self._num_requests, num_malformed=self._num_malformed, num_in_flight=len(self._tasks)
        )

    async def start(self) -> None:
        """Listen. Raises ConfigError when the address cannot be bound."""
        self._socket = _open_socket(self._context, SocketType.ROUTER)
        self._socket.setsockopt(SocketOption.ROUTER_HANDOVER, 1)
        if self._secret is not None:
            self._doorman = Doorman(self._context, self._secret)
            as_server(self._socket, self._secret)
        try:
            self._socket.bind(f"tcp://{self._bind}:{self._port or '*'}")
        except ZMQError as error:
            await self.close()
            raise ConfigError(f"cannot listen on {self._bind}:{self._port}: {error}; choose another address") from error
        bound: str = self._socket.getsockopt_string(SocketOption.LAST_ENDPOINT)
        self._endpoint = f"tcp://{self._advertise}:{bound.rpartition(':')[2]}" if self._advertise else bound
        self._receiver = asyncio.create_task(self._receive(), name=f"rpc server {self._endpoint}")

    async def close(self) -> None:
        """Stop listening and cancel what is being handled; idempotent."""
        tasks = [*self._tasks, *([self._receiver] if self._receiver else [])]
        self._receiver = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._socket is not None:
            self._socket.close(linger=0)
            self._socket = None
        if self._doorman is not None:
            await self._doorman.close()
            self._doorman = None
        self._context.term()

    async def _receive(self) -> None:
        while True:
            await self._slots.acquire()
            try:
                frames = await self._socket.recv_multipart()
            except BaseException:
                self._slots.release()
                raise
            task = asyncio.create_task(self._answer(frames))
            self._tasks.add(task)
            task.add_done_callback(self._finished)

    def _finished(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        self._slots.release()
        if not task.cancelled() and task.exception() is not None:
            _log.error("a request could not be answered", exc_info=task.exception())

    async def _answer(self, frames: list[bytes]) -> None:
        if len(frames) != 3 or len(frames[1]) != _CALL_ID_BYTES:
            self._num_malformed += 1
            return
        sender, call, payload = frames
        reply = await self._reply_to(payload, sender)
        await self._socket.send_multipart([sender, call, self._codec.encode(reply)])

    async def _reply_to(self, payload: bytes, sender: Sender) -> M | ErrorReply:
        try:
            request = self._codec.decode(payload)
        except ProtocolError as error:
            self._num_malformed += 1
            return to_reply(error)
        self._num_requests += 1
        try:
            return await self._handler(request, sender)
        except Exception as error:
            reply = to_reply(error)
            if reply.kind != type(error).__name__:
                _log.exception("handling %s failed", type(request).__name__)
            return reply

    def __repr__(self) -> str:
        return f"RpcServer({self._endpoint or 'not started'}, {self.stats()})"


class RpcClient(Generic[M]):
    """Calls one server; any number of calls at once, each with its own deadline."""

    def __init__(
        self, endpoint: str, union: Any, *, max_in_flight: int = 256, secret: ClusterSecret | None = None
    ) -> None:
        """With a `secret` it talks only to a server that knows it, too."""
        self._endpoint = endpoint
        self._secret = secret
        self._codec: Codec[Any] = Codec(union)
        self._slots = asyncio.Semaphore(max_in_flight)
        self._ids = itertools.count(1)
        self._pending: dict[bytes, asyncio.Future[Any]] = {}
        self._link: _Link | None = None
        self._num_dropped = 0

    @property
    def num_dropped(self) -> int:
        """Replies that nobody waits for any more, or that could not be read."""
        return self._num_dropped

    async def call(self, message: M, *, deadline_s: float) -> M:
        """The server's reply. Raises what the server raised, DeadlineExceeded, InstanceUnavailable when
        the endpoint is none or the client closes, SecretRefused when the two do not share a secret,
        ProtocolError when the reply cannot be read."""
        try:
            async with asyncio.timeout(deadline_s):
                async with self._slots:
                    return await self._call(message)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"no answer to {type(message).__name__} from {self._endpoint} within {deadline_s:g} s"
            ) from error

    async def close(self) -> None:
        """Fail what still waits, close the connection; idempotent."""
        self._fail(InstanceUnavailable(f"the connection to {self._endpoint} was closed"))
        await self._disconnect()

    async def _call(self, message: M) -> M:
        payload = self._codec.encode(message)
        if len(payload) > MAX_CONTROL_BYTES:
            raise ProtocolError(
                f"{type(message).__name__} of {len(payload)} bytes exceeds the limit of {MAX_CONTROL_BYTES} bytes"
            )
        socket = (await self._connected()).socket
        call = next(self._ids).to_bytes(_CALL_ID_BYTES, "big")
        waiting: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._pending[call] = waiting
        try:
            await socket.send_multipart([call, payload])
            reply = self._codec.decode(await waiting)
        finally:
            del self._pending[call]
        if isinstance(reply, ErrorReply):
            raise to_error(reply)
        return reply  # type: ignore[no-any-return]

    async def _connected(self) -> "_Link":
        """As it is, or anew after the server did not let this client in: it may have been told better since."""
        if self._link is not None and self._link.is_refused:
            await self._disconnect()
        if self._link is None:
            self._link = _Link(self._endpoint, self._secret, received=self._received, refused=self._refused)
        return self._link

    async def _disconnect(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    def _received(self, frames: list[bytes]) -> None:
        waiting = self._pending.get(frames[0]) if len(frames) == 2 else None
        if waiting is None or waiting.done():
            self._num_dropped += 1
        else:
            waiting.set_result(frames[1])

    def _refused(self) -> None:
        has, do = (
            ("does not take the cluster secret that is given here", "every process of a cluster needs the same file")
            if self._secret is not None
            else ("talks only to who knows its cluster's secret, and none is given here", "name the cluster's file")
        )
        self._fail(SecretRefused(f"{self._endpoint} {has}: {do} (--cluster-secret FILE)"))

    def _fail(self, error: InstanceUnavailable) -> None:
        for waiting in self._pending.values():
            if not waiting.done():
                waiting.set_exception(error)

    def __repr__(self) -> str:
        return f"RpcClient({self._endpoint}, {len(self._pending)} waiting)"


class _Link:
    """One connection of a client. Inside the event loop: built -> receiving -> close."""

    def __init__(
        self,
        endpoint: str,
        secret: ClusterSecret | None,
        *,
        received: Callable[[list[bytes]], None],
        refused: Callable[[], None],
    ) -> None:
        """Raises InstanceUnavailable for an endpoint that is none."""
        self.is_refused = False
        self._received = received
        self._tell_refused = refused
        self._context = Context()
        self.socket = _open_socket(self._context, SocketType.DEALER)
        self.socket.setsockopt(SocketOption.ROUTING_ID, uuid.uuid4().bytes)
        if secret is not None:
            as_client(self.socket, secret)
        self._handshakes = Handshakes(self.socket, self._refused, is_sealed=secret is not None)
        try:
            self.socket.connect(endpoint)
        except ZMQError as error:
            self._close_sockets()
            raise InstanceUnavailable(f'"{endpoint}" is no endpoint: write tcp://HOST:PORT ({error})') from error
        self._handshakes.start()
        self._receiver = asyncio.create_task(self._receive(), name=f"rpc client {endpoint}")

    async def _receive(self) -> None:
        while True:
            self._received(await self.socket.recv_multipart())

    def _refused(self) -> None:
        self.is_refused = True
        self._tell_refused()

    async def close(self) -> None:
        self._receiver.cancel()
        await asyncio.gather(self._receiver, return_exceptions=True)
        self._close_sockets()

    def _close_sockets(self) -> None:
        self._handshakes.close()
        self.socket.close(linger=0)
        self._context.term()


def _open_socket(context: Any, kind: int) -> Any:
    socket = context.socket(kind)
    socket.setsockopt(SocketOption.MAXMSGSIZE, MAX_CONTROL_BYTES + OVERHEAD_BYTES)
    socket.setsockopt(SocketOption.HANDSHAKE_IVL, _HANDSHAKE_MS)
    socket.setsockopt(SocketOption.SNDHWM, _HIGH_WATER)
    socket.setsockopt(SocketOption.RCVHWM, _HIGH_WATER)
    socket.setsockopt(SocketOption.LINGER, 0)
    return socket

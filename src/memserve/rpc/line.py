"""Typed request and reply between two processes of one host, without an event loop on either side.

A call through channel.py passes eight threads before its answer is back; one through a line passes two: the
caller waits on a Unix socket, and the server answers on the thread that it keeps for the connection. Each message
is one packet of at most MAX_LINE_BYTES; what is longer, or whatever a line does not lead to, goes through
the channel. Both ends check that the other one runs as the same user, who may map the pool's memory anyway.

    server: start -> serving -> close        client: call* -> close        (thread-safe, both)

Names live in the abstract namespace: nothing is left behind by a crash, and no other container sees them.
"""

import hashlib
import logging
import os
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from memserve.core.errors import DeadlineExceeded, InstanceUnavailable, LineUnavailable, ProtocolError
from memserve.rpc.faults import to_error, to_reply
from memserve.wire.codec import Codec
from memserve.wire.messages import ArenaRef, ErrorReply

MAX_LINE_BYTES = 128 << 10
"""Longest message either way: within what a kernel takes as one packet by default."""
_CREDENTIALS = struct.Struct("3i")
_BACKLOG = 64
_log = logging.getLogger(__name__)


def line_name(arena: ArenaRef) -> str:
    """Of the pool whose memory this is: who can map the one can ask the other."""
    return f"memserve-line-{hashlib.blake2b(arena.path.encode(), digest_size=16).hexdigest()}"


class LineServer:
    """Answers each request with what `handler` returns, on one thread a connection."""

    def __init__(self, handler: Callable[[Any], object], union: Any, *, max_connections: int = 64) -> None:
        """`handler` runs on any thread, may block, and raises what the caller is to see."""
        self._handler = handler
        self._union = union
        self._max_connections = max_connections
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self._lock = threading.Lock()
        self._serving: dict[socket.socket, threading.Thread] = {}
        self._is_closing = False

    def start(self, name: str) -> None:
        """Listen under this name. A host that cannot have one is told in the log: callers use the channel."""
        try:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            listener.bind(f"\0{name}")
            listener.listen(_BACKLOG)
        except OSError as error:
            _log.warning("no line on this host (%s): peers take the control connection, which is slower", error)
            return
        self._listener = listener
        self._acceptor = threading.Thread(target=self._accept, args=(listener,), name="memserve-line", daemon=True)
        self._acceptor.start()

    def close(self) -> None:
        """Fail who waits, end what is being handled; idempotent."""
        with self._lock:
            self._is_closing = True
            serving = dict(self._serving)
        if self._listener is not None and self._acceptor is not None:
            _shut(self._listener)
            self._acceptor.join()
            self._listener.close()
        for connection in serving:
            _shut(connection)
        for thread in serving.values():
            thread.join()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return  # closed
            if not _is_same_user(connection):
                connection.close()
                continue
            thread = threading.Thread(target=self._serve, args=(connection,), name="memserve-line", daemon=True)
            with self._lock:
                is_full = self._is_closing or len(self._serving) >= self._max_connections
                if not is_full:
                    self._serving[connection] = thread
            if is_full:
                _refuse(connection, self._union)
            else:
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        codec: Codec[Any] = Codec(self._union, MAX_LINE_BYTES)
        buffer = bytearray(MAX_LINE_BYTES)
        try:
            while num_bytes := connection.recv_into(buffer):
                connection.send(self._answer(codec, memoryview(buffer)[:num_bytes]))
        except OSError as error:
            _log.debug("a line ended: %s", error)
        finally:
            with self._lock:
                del self._serving[connection]
            connection.close()

    def _answer(self, codec: Codec[Any], packet: memoryview) -> bytes:
        try:
            reply = codec.encode(self._handler(codec.decode(packet)))
            if len(reply) > MAX_LINE_BYTES:
                raise ProtocolError(f"the answer has {len(reply)} bytes, a line takes {MAX_LINE_BYTES}")
        except Exception as error:
            told = to_reply(error)
            if told.kind != type(error).__name__:
                _log.exception("a request on a line failed")
            return codec.encode(told)
        return reply

    def __repr__(self) -> str:
        return f"LineServer({'listening' if self._listener else 'silent'}, {len(self._serving)} connections)"


class LineClient:
    """Calls servers by name; each connection serves one call at a time and is kept for the next."""

    def __init__(self, union: Any, *, max_idle: int = 64) -> None:
        self._union = union
        self._max_idle = max_idle
        self._idle: deque[_Line] = deque()
        self._lent: set[_Line] = set()
        self._lock = threading.Lock()
        self._is_closed = False

    def call(self, name: str, message: object, *, deadline_s: float) -> object:
        """The server's reply. Raises what the server raised, LineUnavailable when nothing was asked,
        DeadlineExceeded, InstanceUnavailable when the server has gone or this side is closed."""
        line = self._borrow(name)
        is_fit = False
        try:
            reply = line.ask(message, deadline_s=deadline_s)
            is_fit = True
        finally:
            self._give_back(line, is_fit=is_fit)
        if isinstance(reply, ErrorReply):
            raise to_error(reply)
        return reply

    def close(self) -> None:
        """Who waits gets InstanceUnavailable; idempotent."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, deque()
            for line in self._lent:
                _shut(line.socket)
        for line in idle:
            line.socket.close()

    def _borrow(self, name: str) -> "_Line":
        with self._lock:
            if self._is_closed:
                raise InstanceUnavailable("this pool is closed")
            line = next((one for one in reversed(self._idle) if one.name == name), None)
            if line is not None:
                self._idle.remove(line)
                self._lent.add(line)
                return line
        line = _Line(name, self._union)
        with self._lock:
            self._lent.add(line)
            if self._is_closed:
                _shut(line.socket)
        return line

    def _give_back(self, line: "_Line", *, is_fit: bool) -> None:
        unfit = [] if is_fit else [line]
        with self._lock:
            self._lent.discard(line)
            if is_fit and not self._is_closed:
                self._idle.append(line)
            elif is_fit:
                unfit.append(line)
            if len(self._idle) > self._max_idle:
                unfit.append(self._idle.popleft())
        for one in unfit:
            one.socket.close()

    def __repr__(self) -> str:
        return f"LineClient({len(self._lent)} in use, {len(self._idle)} idle)"


class _Line:
    """One connection of a client. Raises LineUnavailable when nobody, or another user, listens there."""

    def __init__(self, name: str, union: Any) -> None:
        self.name = name
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._codec: Codec[Any] = Codec(union, MAX_LINE_BYTES)
        try:
            self.socket.connect(f"\0{name}")
            is_same_user = _is_same_user(self.socket)
        except OSError as error:
            self.socket.close()
            raise LineUnavailable(f"no line leads to {name}: {error}") from error
        if not is_same_user:
            self.socket.close()
            raise LineUnavailable(f"{name} is served by another user of this host")

    def ask(self, message: object, *, deadline_s: float) -> object:
        packet = self._codec.encode(message)
        if len(packet) > MAX_LINE_BYTES:
            raise LineUnavailable(f"{type(message).__name__} of {len(packet)} bytes: a line takes {MAX_LINE_BYTES}")
        self.socket.settimeout(deadline_s)
        try:
            self.socket.send(packet)
        except OSError as error:
            raise LineUnavailable(f"the line has ended: {error}") from error
        try:
            answer = self._received()
        except TimeoutError as error:
            raise DeadlineExceeded(f"no answer on the line within {deadline_s:g} s") from error
        except OSError as error:
            raise InstanceUnavailable(f"the line has ended: {error}") from error
        if not answer:
            raise InstanceUnavailable("the other end of the line has gone before it answered")
        return self._codec.decode(answer)

    def _received(self) -> bytes:
        """The other end's last word comes after the error, where it closed before it had read what was asked."""
        try:
            return self.socket.recv(MAX_LINE_BYTES)
        except ConnectionResetError:
            return self.socket.recv(MAX_LINE_BYTES)


def _refuse(connection: socket.socket, union: Any) -> None:
    """Said before it is asked: the caller reads it as its answer."""
    codec: Codec[Any] = Codec(union, MAX_LINE_BYTES)
    try:
        connection.send(codec.encode(to_reply(LineUnavailable("no further line is served here"))))
    except OSError as error:
        _log.debug("a refused line was gone: %s", error)
    connection.close()


def _is_same_user(connection: socket.socket) -> bool:
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return bool(_CREDENTIALS.unpack(packed)[1] == os.geteuid())


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it has ended already

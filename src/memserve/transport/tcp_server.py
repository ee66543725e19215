"""The data server of one instance: takes bytes into reserved blocks and gives bytes of offered ones.

Owns the listening socket, a thread for it and one for each connection, at most `limits.max_connections`.
Decides nothing: a BlockDoor says which memory a request may touch. A request that is refused gets an
ErrorReply and the connection lives on; one that cannot be understood gets an ErrorReply and the end.

    start -> serving -> close       (close ends all connections and waits for the threads)
"""

import logging
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec

from memserve.config import Network
from memserve.core.clock import Clock
from memserve.core.errors import ConfigError, InstanceUnavailable, MemserveError, ProtocolError, TransferFailed
from memserve.transport.framed_socket import FramedSocket, HandshakeFailed, TcpLimits
from memserve.transport.tls import server_context
from memserve.wire.data_messages import (
    DataMessage,
    ExposeReply,
    ExposeRequest,
    ReadReply,
    ReadRequest,
    ShownWriteRequest,
    WriteRequest,
)
from memserve.wire.messages import AckReply, ErrorReply

MAX_WRITE_BYTES = 1 << 30
"""Longest frame that is taken, or thrown away when it is refused."""
_BATCH_BYTES = 1 << 20
_ACCEPT_RETRY_S = 0.1
_LAST_WORD_S = 0.5
"""An offer ends when its transfer has: the receiver's word that it is done may still be on its way."""
_log = logging.getLogger(__name__)


class BlockDoor(Protocol):
    """Which memory a request may touch; called from any thread."""

    def begin_write(self, request: WriteRequest) -> Sequence[memoryview]:
        """The memory of each part, to be filled. Raises a MemserveError that the peer is told."""
        ...

    def end_write(self, request: WriteRequest, *, verified: bool) -> None:
        """Exactly once for each begin_write that returned: the memory is not touched any more."""
        ...

    def begin_read(self, request: ReadRequest | ExposeRequest) -> Sequence[memoryview]:
        """The memory of each block. Raises a MemserveError that the peer is told."""
        ...

    def check_offered(self, request: ReadRequest | ExposeRequest) -> None:
        """Raise TransferFailed when the blocks may not be read any more."""
        ...


class OneSided(Protocol):
    """Lets peers read memory by another path than this server's, and reads theirs; called from any thread."""

    def show(self, views: Sequence[memoryview]) -> ExposeReply: ...

    def progress(self) -> None:
        """Call it again and again while something is shown."""
        ...

    def copy(self, shown: ExposeReply, targets: Sequence[memoryview], *, limits: TcpLimits) -> Iterator[int]:
        """Fill all from a peer's memory, in order; gives the xxh3-64 of each. Raises a MemserveError."""
        ...


class DataServerStats(msgspec.Struct, frozen=True, kw_only=True):
    num_connections: int
    """Open now."""
    num_turned_away: int
    """Closed as they came: too many."""
    num_frames: int
    num_refused: int
    num_malformed: int
    num_strangers: int
    """Connections that did not get through the TLS handshake."""


class DataServer:
    """Serves one pool's blocks on one port."""

    def __init__(
        self,
        *,
        network: Network,
        door: BlockDoor,
        clock: Clock,
        limits: TcpLimits | None = None,
        nixl: OneSided | None = None,
    ) -> None:
        self._nixl = nixl
        self._network = network
        self._tls = server_context(network)
        self._door = door
        self._clock = clock
        self._limits = limits or TcpLimits()
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self._lock = threading.Lock()
        self._serving: dict[FramedSocket, threading.Thread] = {}
        self._closing = threading.Event()
        self._num_turned_away = 0
        self._num_frames = 0
        self._num_refused = 0
        self._num_malformed = 0
        self._num_strangers = 0

    def start(self) -> str:
        """Listen on a free port; returns tcp://HOST:PORT, or tls://. Raises ConfigError for an address that is none."""
        bind = self._network.bind
        family = socket.AF_INET6 if ":" in bind else socket.AF_INET
        try:
            self._listener = socket.create_server((bind, 0), family=family)
        except OSError as error:
            raise ConfigError(f"cannot listen on {bind} for data: {error}; choose another address") from error
        port = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(
            target=self._accept, args=(self._listener,), name=f"memserve-data-{port}", daemon=True
        )
        self._acceptor.start()
        return f"{'tls' if self._tls else 'tcp'}://{self._network.host}:{port}"

    def stats(self) -> DataServerStats:
        with self._lock:
            return DataServerStats(
                num_connections=len(self._serving),
                num_turned_away=self._num_turned_away,
                num_frames=self._num_frames,
                num_refused=self._num_refused,
                num_malformed=self._num_malformed,
                num_strangers=self._num_strangers,
            )

    def close(self) -> None:
        """Idempotent."""
        with self._lock:
            self._closing.set()
            serving = dict(self._serving)
        if self._listener is not None and self._acceptor is not None and self._acceptor.is_alive():
            self._listener.shutdown(socket.SHUT_RDWR)
            self._acceptor.join()
            self._listener.close()
        for framed, thread in serving.items():
            framed.shut()
            thread.join()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, address = listener.accept()
            except OSError:
                if self._closing.is_set():
                    return
                _log.exception("a data connection could not be accepted")
                self._closing.wait(_ACCEPT_RETRY_S)
                continue
            self._admit(sock, f"{address[0]}:{address[1]}")

    def _admit(self, sock: socket.socket, peer: str) -> None:
        if self._tls is not None:
            sock = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        framed = FramedSocket(sock, peer=peer, limits=self._limits, clock=self._clock)
        with self._lock:
            if self._closing.is_set() or len(self._serving) >= self._limits.max_connections:
                self._num_turned_away += 1
                framed.close()
                return
            thread = threading.Thread(target=self._serve, args=(framed,), name=f"memserve-data-{peer}", daemon=True)
            self._serving[framed] = thread
            thread.start()

    def _serve(self, framed: FramedSocket) -> None:
        try:
            framed.shake_hands()
            while framed.wait(seconds=self._limits.idle_s):
                message, num_bytes = framed.receive()
                self._answer(framed, message, num_bytes)
        except HandshakeFailed as error:
            with self._lock:
                self._num_strangers += 1
            _log.info("%s", error)
        except ProtocolError as error:
            self._count_malformed()
            _log.warning("data connection closed: %s", error)
            _tell(framed, error)
        except MemserveError as error:
            _log.info("data connection ended: %s", error)
        finally:
            with self._lock:
                del self._serving[framed]
            framed.close()

    def _answer(self, framed: FramedSocket, message: DataMessage, num_bytes: int) -> None:
        with self._lock:
            self._num_frames += 1
        if isinstance(message, WriteRequest):
            if num_bytes != message.length * len(message.blocks) or num_bytes > MAX_WRITE_BYTES:
                raise ProtocolError(
                    f"{num_bytes} bytes follow a WriteRequest for {len(message.blocks)} x {message.length} bytes; "
                    f"expected are as many, and at most {MAX_WRITE_BYTES}"
                )
            refusal = self._take(framed, message)
        elif isinstance(message, ShownWriteRequest) and not num_bytes:
            refusal = self._draw(framed, message)
        elif isinstance(message, ReadRequest) and not num_bytes:
            refusal = self._give(framed, message)
        elif isinstance(message, ExposeRequest) and not num_bytes:
            refusal = self._expose(framed, message)
        else:
            raise ProtocolError(f"{type(message).__name__} with {num_bytes} bytes is not a request")
        if refusal is not None:
            with self._lock:
                self._num_refused += 1
            framed.send(_reply(refusal))

    def _take(self, framed: FramedSocket, request: WriteRequest) -> MemserveError | None:
        try:
            targets = self._door.begin_write(request)
        except MemserveError as refusal:
            framed.drain(request.length * len(request.blocks))
            return refusal
        return self._verify(framed, request, framed.fill(targets))

    def _draw(self, framed: FramedSocket, message: ShownWriteRequest) -> MemserveError | None:
        """The other path fails for reasons of its own: this connection goes on."""
        if self._nixl is None:
            return TransferFailed("nothing is read by NIXL here: allow the path on both sides")
        try:
            targets = self._door.begin_write(message.write)
            return self._verify(framed, message.write, self._nixl.copy(message.shown, targets, limits=self._limits))
        except MemserveError as refusal:
            return refusal

    def _verify(self, framed: FramedSocket, request: WriteRequest, arriving: Iterator[int]) -> MemserveError | None:
        """Acknowledge a write that began, when all of it has arrived as it was announced."""
        num_verified = 0
        try:
            for found, expected in zip(arriving, request.checksums, strict=True):
                num_verified += found == expected
        finally:
            self._door.end_write(request, verified=num_verified == len(request.blocks))
        if num_verified < len(request.blocks):
            return TransferFailed(
                f"{len(request.blocks) - num_verified} of {len(request.blocks)} parts of transfer {request.transfer} "
                "arrived with another checksum than was announced: send them again"
            )
        framed.send(AckReply())
        return None

    def _give(self, framed: FramedSocket, request: ReadRequest) -> MemserveError | None:
        try:
            sources = self._door.begin_read(request)
        except MemserveError as refusal:
            return refusal
        framed.send(ReadReply(), num_follow=sum(source.nbytes for source in sources))
        for batch in _batches(sources):
            try:
                self._door.check_offered(request)
            except TransferFailed as withdrawn:
                raise InstanceUnavailable(f"cut off while it was reading: {withdrawn}") from withdrawn
            framed.send_bytes(batch)
        return None

    def _expose(self, framed: FramedSocket, request: ExposeRequest) -> MemserveError | None:
        """Until the asker is done or gone, or the offer is withdrawn; this thread keeps the other path going."""
        if self._nixl is None:
            return TransferFailed("no blocks are shown to NIXL here: allow the path on both sides")
        try:
            shown = self._nixl.show(self._door.begin_read(request))
        except MemserveError as refusal:
            return refusal
        framed.send(shown)
        while framed.is_quiet:
            self._nixl.progress()
            try:
                self._door.check_offered(request)
            except TransferFailed as withdrawn:
                if framed.wait(seconds=_LAST_WORD_S):
                    break
                raise InstanceUnavailable(f"cut off while it was reading: {withdrawn}") from withdrawn
        done, num_bytes = framed.receive()
        if not isinstance(done, AckReply) or num_bytes:
            raise ProtocolError(f"{type(done).__name__} came while blocks were shown: expected AckReply")
        return None

    def _count_malformed(self) -> None:
        with self._lock:
            self._num_malformed += 1

    def __repr__(self) -> str:
        return f"DataServer({self.stats()})"


def _batches(sources: Sequence[memoryview]) -> Iterator[list[memoryview]]:
    """A few at a time, so that a withdrawn offer is noticed."""
    batch: list[memoryview] = []
    for source in sources:
        batch.append(source)
        if sum(part.nbytes for part in batch) >= _BATCH_BYTES:
            yield batch
            batch = []
    if batch:
        yield batch


def _reply(error: MemserveError) -> ErrorReply:
    return ErrorReply(kind=type(error).__name__, text=str(error))


def _tell(framed: FramedSocket, error: MemserveError) -> None:
    """As a last word; a peer that does not listen is none of our business."""
    try:
        framed.send(_reply(error))
    except InstanceUnavailable:
        _log.debug("%s was gone before it could be told", framed)

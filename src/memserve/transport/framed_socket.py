"""One data connection: messages, some of them followed by bytes of blocks, with a bound and a deadline on each.

    frame = magic (4) | length of the message (4) | number of bytes that follow it (8) | message | bytes

Integers are big-endian, messages are MessagePack. Bytes go from and to memory that the caller names, never
through a buffer of ours. Not thread-safe, but `shut` may come from any thread and ends what waits.
"""

import socket
import struct
from collections.abc import Iterator, Sequence
from itertools import islice

import msgspec
import xxhash

from memserve.core.clock import Clock
from memserve.core.errors import DeadlineExceeded, InstanceUnavailable, ProtocolError, TransferFailed
from memserve.transport.wires import wire_on
from memserve.wire.codec import Codec
from memserve.wire.data_messages import DataMessage
from memserve.wire.messages import ErrorReply

MAX_MESSAGE_BYTES = 4 << 20
MAX_PAYLOAD_BYTES = 1 << 40
"""What is asked for at once may be long; what is written at once is as long as the reserved blocks it names."""

_HEAD = struct.Struct(">4sIQ")
_MAGIC = b"msd1"
_MAX_PARTS = 256
"""Pieces of memory given to the kernel at once."""
_FILL_BYTES = 256 << 10
"""Read between two passes of the hash."""


class TcpLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of data connections."""

    connect_s: float = 3.0
    stall_s: float = 10.0
    """Longest time without any progress inside a frame or on the way to its answer."""
    min_bytes_per_s: int = 1 << 20
    """Who is slower than this is cut off, after `stall_s`."""
    idle_s: float = 60.0
    """A server closes connections that say nothing for so long; clients close theirs after half of it."""
    range_bytes: int = 16 << 20
    """A client that fetches more than this asks for it in parts, over several connections at once."""
    max_connections: int = 256
    """That a server serves at once; more are closed as they come."""


class HandshakeFailed(InstanceUnavailable):
    """Who is at the other end has not proved to belong to this cluster. The connection is closed."""


class FramedSocket:
    """Owns the socket it is given."""

    def __init__(self, sock: socket.socket, *, peer: str, limits: TcpLimits, clock: Clock) -> None:
        self._wire = wire_on(sock)
        self._peer = peer
        self._limits = limits
        self._clock = clock
        self._codec: Codec[DataMessage] = Codec(DataMessage, MAX_MESSAGE_BYTES)  # type: ignore[arg-type]
        sock.settimeout(limits.stall_s)

    def send(self, message: DataMessage, payload: Sequence[memoryview] = (), *, num_follow: int = 0) -> None:
        """A message and `payload`; `num_follow` more bytes are announced that `send_bytes` will bring.

        Raises InstanceUnavailable when the connection is gone, DeadlineExceeded when the peer does not take it.
        """
        encoded = self._codec.encode(message)
        num_bytes = num_follow + sum(part.nbytes for part in payload)
        head = _HEAD.pack(_MAGIC, len(encoded), num_bytes)
        self.send_bytes((memoryview(head + encoded), *payload))

    def send_bytes(self, parts: Sequence[memoryview]) -> None:
        """Straight from the memory that is named; it may be reused when this returns."""
        left = list(reversed(parts))
        end = self._end_of(sum(part.nbytes for part in parts))
        while left:
            try:
                num_sent = self._wire.send(list(islice(reversed(left), _MAX_PARTS)))
            except OSError as error:
                raise self._failure(error) from error
            self._check_time(end)
            _advance(left, num_sent)

    def receive(self) -> tuple[DataMessage, int]:
        """The next message and the number of bytes that follow it, to be taken with `read_into` or `drain`.

        Raises ProtocolError when it cannot be read: the connection is then of no more use. ErrorReplies are
        raised as TransferFailed.
        """
        head = bytearray(_HEAD.size)
        self.read_into(memoryview(head))
        magic, num_message, num_payload = _HEAD.unpack(head)
        if magic != _MAGIC:
            raise ProtocolError(f"{self._peer} does not speak memserve's data protocol: it began with {magic!r}")
        if num_message > MAX_MESSAGE_BYTES or num_payload > MAX_PAYLOAD_BYTES:
            raise ProtocolError(
                f"{self._peer} announced a message of {num_message} bytes and {num_payload} bytes after it; "
                f"the most allowed are {MAX_MESSAGE_BYTES} and {MAX_PAYLOAD_BYTES}"
            )
        encoded = bytearray(num_message)
        self.read_into(memoryview(encoded))
        message = self._codec.decode(memoryview(encoded))
        if isinstance(message, ErrorReply):
            raise TransferFailed(f"{self._peer} refused: {message.text}")
        return message, num_payload

    def fill(self, targets: Sequence[memoryview]) -> Iterator[int]:
        """Fill all, in order; gives the xxh3-64 of what has come into each one, soon after its last byte.

        Bytes are hashed a piece at a time while they are in the processor's cache: a second pass over memory
        would cost a third of the speed. Raises InstanceUnavailable when the connection ends first, DeadlineExceeded.
        """
        first = 0
        while first < len(targets):
            last, num_bytes = first + 1, targets[first].nbytes
            while last < len(targets) and last - first < _MAX_PARTS and num_bytes + targets[last].nbytes <= _FILL_BYTES:
                num_bytes += targets[last].nbytes
                last += 1
            if num_bytes > _FILL_BYTES:
                yield self._fill_long(targets[first])
            else:
                self._read(list(reversed(targets[first:last])), num_bytes)
                yield from map(xxhash.xxh3_64_intdigest, targets[first:last])
            first = last

    def read_into(self, target: memoryview) -> None:
        """Fill one piece of memory; raises as `fill`."""
        self._read([target], target.nbytes)

    def drain(self, num_bytes: int) -> None:
        """Take bytes that nobody wants, so that the next message can be read."""
        end = self._end_of(num_bytes)
        scratch = memoryview(bytearray(min(num_bytes, 1 << 18)))
        while num_bytes:
            part = scratch[: min(num_bytes, scratch.nbytes)]
            self.read_into(part)
            num_bytes -= part.nbytes
            self._check_time(end)

    def shake_hands(self) -> None:
        """Find out who is there, in `connect_s` at most. Raises HandshakeFailed."""
        try:
            self._wire.shake_hands(seconds=self._limits.connect_s)
        except OSError as error:
            raise HandshakeFailed(f"{self._peer} is not let in: {error}") from error
        self._wire.set_timeout(self._limits.stall_s)

    def wait(self, *, seconds: float) -> bool:
        """Whether the peer begins a message in that time; False, too, when it has closed the connection."""
        try:
            return bool(self._wire.look(seconds=seconds))
        except OSError:
            return False
        finally:
            self._wire.set_timeout(self._limits.stall_s)

    @property
    def is_quiet(self) -> bool:
        """Nothing has come that was not asked for, the end of the connection included."""
        try:
            return self._wire.look(seconds=0) is None
        except OSError:
            return False
        finally:
            self._wire.set_timeout(self._limits.stall_s)

    def shut(self) -> None:
        """End the connection under whatever thread is using it; idempotent."""
        try:
            self._wire.shut()
        except OSError:
            return  # it has ended already

    def close(self) -> None:
        self._wire.close()

    def _fill_long(self, target: memoryview) -> int:
        digest = xxhash.xxh3_64()
        for start in range(0, target.nbytes, _FILL_BYTES):
            piece = target[start : start + _FILL_BYTES]
            self._read([piece], piece.nbytes)
            digest.update(piece)
        return digest.intdigest()

    def _read(self, left: list[memoryview], num_bytes: int) -> None:
        """`left` in reverse order, `num_bytes` long together."""
        end = self._end_of(num_bytes)
        while num_bytes:
            try:
                num_read = self._wire.read_into(left[::-1])
            except OSError as error:
                raise self._failure(error) from error
            if not num_read:
                raise InstanceUnavailable(f"{self._peer} closed the connection {num_bytes} bytes too early")
            self._check_time(end)
            num_bytes -= num_read
            _advance(left, num_read)

    def _end_of(self, num_bytes: int) -> float:
        return self._clock.now() + self._limits.stall_s + num_bytes / self._limits.min_bytes_per_s

    def _check_time(self, end: float) -> None:
        if self._clock.now() > end:
            raise DeadlineExceeded(
                f"{self._peer} moves fewer than {self._limits.min_bytes_per_s} bytes a second: given up"
            )

    def _failure(self, error: OSError) -> InstanceUnavailable:
        if isinstance(error, TimeoutError):
            return DeadlineExceeded(f"nothing moved to or from {self._peer} for {self._limits.stall_s:g} s")
        return InstanceUnavailable(f"the connection to {self._peer} is gone: {error}")

    def __repr__(self) -> str:
        return f"FramedSocket({self._peer})"


def _advance(left: list[memoryview], num_bytes: int) -> None:
    """Drop so many bytes from the end of a list in reverse order."""
    while left and num_bytes >= left[-1].nbytes:
        num_bytes -= left.pop().nbytes
    if num_bytes:
        left[-1] = left[-1][num_bytes:]

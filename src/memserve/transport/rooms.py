"""Room that a receiver has reserved, and the parts of blocks that a sender brings into it, frame by frame.

Says what a frame looks like and what answers it; how its bytes travel is the business of each path.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

from memserve.core.enums import DataPath
from memserve.core.errors import ProtocolError
from memserve.core.ids import TransferId
from memserve.transport.framed_socket import FramedSocket
from memserve.transport.verified_copy import checksum
from memserve.wire.data_messages import WriteRequest
from memserve.wire.messages import AckReply


class RemoteRoom(msgspec.Struct, frozen=True, kw_only=True):
    """Where a receiver takes the bytes of one reservation."""

    endpoint: str
    transfer: TransferId
    ticket: bytes
    path: DataPath = DataPath.TCP
    """How they get there."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """The same range of several blocks, one frame on the way."""

    blocks: tuple[int, ...]
    """Positions in the receiver's arena."""
    offset: int
    data: tuple[memoryview, ...]
    """One for each block, all of one length."""


class RoomWriter(Protocol):
    """Brings parts into rooms. Thread-safe."""

    def write(self, room: RemoteRoom, parts: Iterable[Part]) -> int:
        """Bring all parts over; returns how many frames it took. All of them are verified there on return.

        A part's memory may be reused as soon as the next part is asked for. Raises TransferFailed when the
        receiver refuses or finds other bytes than were sent, InstanceUnavailable when it is gone.
        """
        ...

    def close(self) -> None:
        """What is under way fails. Idempotent."""
        ...


def cut(parts: Iterable[Part], ranges: Sequence[range]) -> Iterable[Part]:
    """Each of the byte ranges of each block as a frame of its own; a single range leaves the parts as they are."""
    if len(ranges) < 2:
        return parts
    return (
        Part(blocks=(block,), offset=part.offset + piece.start, data=(data[piece.start : piece.stop],))
        for part in parts
        for block, data in zip(part.blocks, part.data, strict=True)
        for piece in ranges
    )


def write_request(room: RemoteRoom, part: Part) -> WriteRequest:
    """What announces the bytes of one part."""
    return WriteRequest(
        transfer=room.transfer,
        ticket=room.ticket,
        blocks=part.blocks,
        offset=part.offset,
        length=part.data[0].nbytes,
        checksums=tuple(checksum(data) for data in part.data),
    )


def take_acknowledgement(framed: FramedSocket) -> None:
    """Raises TransferFailed when the receiver refuses."""
    reply, num_bytes = framed.receive()
    if not isinstance(reply, AckReply) or num_bytes:
        raise ProtocolError(f"{framed} answered {type(reply).__name__} and {num_bytes} bytes to what was written")

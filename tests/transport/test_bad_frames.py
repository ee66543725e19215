"""What a data server does with visitors that lie, stutter or have no business there: no byte of the pool changes."""

import contextlib
import socket
import struct
from collections.abc import Callable, Iterator

import msgspec
import pytest

from memserve.core.clock import SystemClock
from memserve.core.errors import InstanceUnavailable, MemserveError, TransferFailed
from memserve.core.ids import BlockId, TransferId, block_index
from memserve.transport.framed_socket import FramedSocket
from memserve.transport.rooms import RemoteRoom
from memserve.transport.tcp_server import MAX_WRITE_BYTES
from memserve.transport.verified_copy import checksum
from memserve.wire.data_messages import DataMessage, ReadReply, ReadRequest, WriteRequest
from memserve.wire.messages import AckReply
from tests.transport.parts import BLOCK_BYTES, IMPATIENT, LIMITS, TRANSFER, Side

HEAD = struct.Struct(">4sIQ")
DATA = bytes(range(256)) * (BLOCK_BYTES // 256)


@pytest.fixture
def visit(receiver: Side) -> Iterator[Callable[[], socket.socket]]:
    """A new raw connection to the receiver's data server."""
    opened: list[socket.socket] = []

    def connect() -> socket.socket:
        host, port = receiver.info.data.removeprefix("tcp://").split(":")
        opened.append(socket.create_connection((host, int(port)), timeout=5))
        return opened[-1]

    yield connect
    for one in opened:
        one.close()


Visit = Callable[[], socket.socket]


def speak(sock: socket.socket) -> FramedSocket:
    return FramedSocket(sock, peer="server", limits=LIMITS, clock=SystemClock())


def ends(sock: socket.socket) -> bool:
    """The server closes, after a last word perhaps."""
    try:
        while sock.recv(1 << 16):
            pass
    except ConnectionResetError:
        return True
    return True


def request(room: RemoteRoom, *blocks: BlockId, **changes: object) -> WriteRequest:
    plain = WriteRequest(
        transfer=room.transfer,
        ticket=room.ticket,
        blocks=tuple(block_index(block) for block in blocks),
        offset=0,
        length=BLOCK_BYTES,
        checksums=(checksum(memoryview(DATA)),) * len(blocks),
    )
    return msgspec.structs.replace(plain, **changes)


def send(framed: FramedSocket, message: DataMessage, num_bytes: int) -> tuple[DataMessage, int]:
    framed.send(message, [memoryview(bytes(num_bytes))] if num_bytes else [])
    return framed.receive()


WHOLE = msgspec.msgpack.encode(ReadRequest(transfer=TransferId("t"), ticket=b"", blocks=(1,)))


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: memserve\r\n\r\n",
        bytes(1000),
        HEAD.pack(b"msd1", 1 << 31, 0),
        HEAD.pack(b"msd1", 10, 1 << 60) + bytes(10),
        HEAD.pack(b"msd1", len(WHOLE), (1 << 64) - 1) + WHOLE,
        HEAD.pack(b"msd1", 5, 0) + b"\xdd\xff\xff\xff\xff",
        HEAD.pack(b"msd1", 0, 0),
        HEAD.pack(b"msd1", len(WHOLE), 7) + WHOLE + bytes(7),
        HEAD.pack(b"msd1", len(WHOLE) - 1, 0) + WHOLE[:-1],
        HEAD.pack(b"msd1", 100, 0) + b"cut",
    ],
)
def test_garbage_closes_the_connection_and_the_server_serves_on(receiver: Side, visit: Visit, garbage: bytes) -> None:
    before = receiver.arena_bytes()
    sock = visit()
    sock.sendall(garbage)
    with contextlib.suppress(OSError):  # the server was faster
        sock.shutdown(socket.SHUT_WR)
    assert ends(sock)
    with pytest.raises(TransferFailed, match="offers nothing"):
        send(speak(visit()), ReadRequest(transfer=TransferId("t"), ticket=b"", blocks=(1,)), 0)
    assert receiver.arena_bytes() == before
    assert receiver.is_free_of_transfers()


def refused_commit(receiver: Side) -> str:
    with pytest.raises(TransferFailed, match="commit when every frame was acknowledged") as refusal:
        receiver.commit(2)
    return str(refusal.value)


@pytest.mark.parametrize("message", [AckReply(), ReadReply()])
def test_an_answer_is_no_request(visit: Visit, message: DataMessage) -> None:
    with pytest.raises(TransferFailed, match="is not a request"):
        send(speak(visit()), message, 0)


def test_a_frame_longer_than_any_is_not_taken(receiver: Side, visit: Visit) -> None:
    room, blocks = receiver.reserve(2)
    long = request(room, blocks[0], length=MAX_WRITE_BYTES + 1)
    framed = speak(visit())
    framed.send(long, num_follow=MAX_WRITE_BYTES + 1)
    with pytest.raises((TransferFailed, InstanceUnavailable)):
        framed.receive()


@pytest.mark.parametrize(
    "changes",
    [
        {"ticket": b""},
        {"ticket": bytes(16)},
        {"transfer": TransferId("sender/1/2")},
        {"transfer": TransferId("")},
        {"offset": 1},
        {"offset": -1},
        {"offset": 1 << 62},
        {"blocks": (15,)},
        {"blocks": (1 << 40,)},
        {"blocks": (-1,)},
        {"blocks": (0, 0), "checksums": (0, 0)},
        {"blocks": (), "checksums": ()},
        {"length": 0, "blocks": (0,)},
        {"checksums": ()},
        {"checksums": (1, 2)},
    ],
)
def test_a_write_outside_of_the_reservation_is_refused_and_the_connection_lives_on(
    receiver: Side, visit: Visit, changes: dict[str, object]
) -> None:
    room, blocks = receiver.reserve(2)
    before = receiver.arena_bytes()
    asked = request(room, blocks[0], **changes)
    framed = speak(visit())
    with pytest.raises(TransferFailed, match="refused"):
        send(framed, asked, asked.length * len(asked.blocks))
    assert receiver.arena_bytes() == before
    framed.send(request(room, *blocks), [memoryview(DATA), memoryview(DATA)])
    assert isinstance(framed.receive()[0], AckReply)
    receiver.commit(2)
    assert receiver.is_free_of_transfers()


def test_a_write_after_the_commit_changes_nothing(receiver: Side, visit: Visit) -> None:
    room, blocks = receiver.reserve(1)
    framed = speak(visit())
    framed.send(request(room, *blocks), [memoryview(DATA)])
    framed.receive()
    receiver.commit(1)
    with pytest.raises(TransferFailed, match="no open reservation"):
        send(framed, request(room, *blocks), BLOCK_BYTES)
    assert receiver.read(blocks) == [DATA]


def test_bytes_with_another_checksum_do_not_count(receiver: Side, visit: Visit) -> None:
    room, blocks = receiver.reserve(1)
    with pytest.raises(TransferFailed, match="another checksum"):
        send(speak(visit()), request(room, *blocks), BLOCK_BYTES)
    with pytest.raises(TransferFailed, match="0 of 1 blocks are verified"):
        receiver.commit(1)
    receiver.abort()
    assert receiver.is_free_of_transfers()


def test_blocks_that_a_frame_is_being_written_into_are_neither_published_nor_reused(
    receiver: Side, visit: Visit
) -> None:
    room, blocks = receiver.reserve(2)
    first, second = visit(), speak(visit())
    slow = speak(first)
    slow.send(request(room, blocks[0]), num_follow=BLOCK_BYTES)
    slow.send_bytes([memoryview(DATA)[:1000]])
    second.send(request(room, blocks[1]), [memoryview(DATA)])
    second.receive()
    while "1 of 2 blocks are verified and 1 frames under way" not in refused_commit(receiver):
        pass  # the server has not yet read the head of the first frame
    receiver.abort()
    assert not receiver.is_free_of_transfers()
    with pytest.raises(TransferFailed, match="no open reservation"):
        send(second, request(room, blocks[1]), BLOCK_BYTES)
    first.shutdown(socket.SHUT_WR)
    assert ends(first)
    receiver.server.close()
    assert receiver.is_free_of_transfers()
    assert receiver.core.ledger.stats()[0].num_free == receiver.arena.num_blocks


def test_a_visitor_that_stalls_in_the_middle_of_a_frame_is_cut_off() -> None:
    side = Side("impatient", limits=IMPATIENT)
    room, blocks = side.reserve(1)
    host, port = side.info.data.removeprefix("tcp://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        framed = speak(sock)
        framed.send(request(room, *blocks), num_follow=BLOCK_BYTES)
        framed.send_bytes([memoryview(DATA)[:1000]])
        assert ends(sock)
    side.close()
    side.abort()
    assert side.is_free_of_transfers()


def test_visitors_beyond_the_limit_are_turned_away_and_places_come_free_again(receiver: Side, visit: Visit) -> None:
    asked = ReadRequest(transfer=TransferId("t"), ticket=b"", blocks=(1,))
    inside = [visit() for _ in range(LIMITS.max_connections)]
    for sock in inside:
        with pytest.raises(TransferFailed):
            send(speak(sock), asked, 0)
    assert ends(visit())
    assert receiver.server.stats().num_turned_away == 1
    inside[0].shutdown(socket.SHUT_WR)
    assert ends(inside[0])
    with pytest.raises(MemserveError):
        send(speak(visit()), asked, 0)


@pytest.mark.parametrize("changes", [{"ticket": bytes(16)}, {"blocks": (9,)}, {"blocks": ()}, {"blocks": (-1,)}])
def test_only_offered_blocks_are_read_and_only_with_the_ticket(
    receiver: Side, visit: Visit, changes: dict[str, object]
) -> None:
    blocks = receiver.fill(2)
    with receiver.offer(blocks) as ticket:
        asked = ReadRequest(transfer=TRANSFER, ticket=ticket, blocks=tuple(block_index(block) for block in blocks))
        with pytest.raises(TransferFailed, match="refused"):
            send(speak(visit()), msgspec.structs.replace(asked, **changes), 0)
        reply, num_bytes = send(speak(visit()), asked, 0)
        assert (type(reply), num_bytes) == (ReadReply, 2 * BLOCK_BYTES)
    with pytest.raises(TransferFailed, match="offers nothing"):
        send(speak(visit()), asked, 0)

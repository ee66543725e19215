"""What every path must do that brings bytes into reserved room over a network."""

import time
from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import pytest

from memserve.config import LOOPBACK, Network
from memserve.core.clock import SystemClock
from memserve.core.enums import PiecePlan
from memserve.core.errors import InstanceUnavailable, TransferFailed
from memserve.core.ids import BlockId, block_index
from memserve.security.tls_files import TlsFiles
from memserve.transfer.plan import pieces
from memserve.transport.nixl import NixlTransport
from memserve.transport.nixl_agent import NixlAgent, load_nixl
from memserve.transport.rooms import Part, RemoteRoom, RoomWriter, cut
from memserve.transport.tcp import TcpTransport
from memserve.transport.tcp_server import DataServer
from tests.transport.conftest import MakeProxy
from tests.transport.parts import BLOCK_BYTES, LIMITS, Side, parts_for
from tests.transport.paths import NEEDS_NIXL
from tests.transport.proxy import Direction, Fault, Kind

N = 6


@pytest.fixture(params=["tcp", "tcp in crumbs", "tls", pytest.param("nixl", marks=NEEDS_NIXL)])
def way(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def endpoint(way: str, receiver: Side, make_proxy: MakeProxy, tls: TlsFiles) -> str:
    """Where the receiver takes bytes."""
    if way == "tls":
        receiver.server.close()
        receiver.server = DataServer(network=Network(tls=tls), door=receiver.door, clock=SystemClock(), limits=LIMITS)
        return receiver.server.start()
    if way == "tcp in crumbs":
        return make_proxy(receiver.info.data, Fault(Kind.CRUMBS, Direction.TO_SERVER)).endpoint
    return receiver.info.data


@pytest.fixture
def writer(way: str, tls: TlsFiles) -> Iterator[RoomWriter]:
    made: RoomWriter
    if way == "nixl":
        load_nixl()
        agent = NixlAgent(f"sender/{time.time_ns()}", clock=SystemClock())
        made = NixlTransport(agent, clock=SystemClock(), limits=LIMITS)
    else:
        made = TcpTransport(clock=SystemClock(), limits=LIMITS, network=Network(tls=tls) if way == "tls" else LOOPBACK)
    yield made
    made.close()


class Delivery(NamedTuple):
    """What is to be brought, and where to."""

    data: list[bytes]
    room: RemoteRoom
    blocks: tuple[BlockId, ...]


@pytest.fixture
def delivery(sender: Side, receiver: Side, endpoint: str) -> Delivery:
    return Delivery(sender.read(sender.fill(N)), *receiver.reserve(N, endpoint=endpoint))


@pytest.mark.parametrize("plan", PiecePlan)
def test_parts_that_are_cut_into_pieces_arrive_whole_and_cost_a_frame_each(
    receiver: Side, delivery: Delivery, writer: RoomWriter, plan: PiecePlan
) -> None:
    data, room, blocks = delivery
    ranges = pieces(plan, num_bytes=BLOCK_BYTES, num_layers=3)
    num_frames = writer.write(room, cut(parts_for(blocks, data, at_once=N), ranges))
    receiver.commit(N)
    assert receiver.read(blocks) == data
    assert num_frames == (1 if plan is PiecePlan.AGGREGATED else 6 * N)
    assert receiver.is_free_of_transfers()


def test_a_parts_memory_may_be_used_again_for_the_next_one(
    receiver: Side, delivery: Delivery, writer: RoomWriter
) -> None:
    data, room, blocks = delivery
    staging = bytearray(BLOCK_BYTES)

    def parts() -> Iterator[Part]:
        for block, one in zip(blocks, data, strict=True):
            staging[:] = one
            yield Part(blocks=(block_index(block),), offset=0, data=(memoryview(staging),))

    writer.write(room, parts())
    receiver.commit(N)
    assert receiver.read(blocks) == data


def test_a_stranger_writes_nothing_and_who_may_does_so_afterwards(
    receiver: Side, delivery: Delivery, writer: RoomWriter
) -> None:
    data, room, blocks = delivery
    before = receiver.arena_bytes()
    with pytest.raises(TransferFailed):
        writer.write(msgspec.structs.replace(room, ticket=b"guessed"), parts_for(blocks, data))
    assert receiver.arena_bytes() == before
    writer.write(room, parts_for(blocks, data))
    receiver.commit(N)
    assert receiver.read(blocks) == data


def test_room_that_was_given_up_takes_nothing_any_more(receiver: Side, delivery: Delivery, writer: RoomWriter) -> None:
    data, room, blocks = delivery
    parts = parts_for(blocks, data)
    writer.write(room, parts[:1])
    receiver.abort()
    before = receiver.arena_bytes()
    with pytest.raises(TransferFailed):
        writer.write(room, parts[1:])
    assert receiver.arena_bytes() == before
    assert receiver.is_free_of_transfers()


def test_what_is_not_all_there_cannot_be_committed(receiver: Side, delivery: Delivery, writer: RoomWriter) -> None:
    data, room, blocks = delivery
    writer.write(room, parts_for(blocks, data)[:2])
    with pytest.raises(TransferFailed, match="4 of 6 blocks are verified"):
        receiver.commit(N)
    assert receiver.num_visible(N) == 0


def test_a_receiver_that_is_gone_is_unavailable(receiver: Side, delivery: Delivery, writer: RoomWriter) -> None:
    data, room, blocks = delivery
    receiver.server.close()
    with pytest.raises(InstanceUnavailable):
        writer.write(room, parts_for(blocks, data))


def test_closing_a_writer_twice_is_closing_it_once(writer: RoomWriter) -> None:
    writer.close()
    writer.close()

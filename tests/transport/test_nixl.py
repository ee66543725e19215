"""NIXL where the network, the sender or the offer gives out.

What UCX itself carries cannot be cut, delayed or flipped from outside; the connection that arranges it can.
"""

import sys
import time

import msgspec
import pytest

from memserve.config import LOOPBACK
from memserve.core.clock import SystemClock
from memserve.core.errors import ConfigError, InstanceUnavailable, ProtocolError, TransferFailed
from memserve.core.ids import block_index
from memserve.transport.base import Offer
from memserve.transport.connections import Connections
from memserve.transport.nixl import NixlTransport
from memserve.transport.nixl_agent import NixlAgent, expose_digest, load_nixl
from memserve.transport.rooms import write_request
from memserve.transport.tcp import TcpTransport
from memserve.transport.tcp_server import DataServer
from memserve.wire.data_messages import ExposeReply, ExposeRequest, ShownWriteRequest
from tests.transport.conftest import MakeProxy
from tests.transport.parts import LIMITS, TRANSFER, Side, parts_for
from tests.transport.paths import NEEDS_NIXL
from tests.transport.proxy import Direction, Fault, Kind

pytestmark = NEEDS_NIXL

N = 3
HASTY = msgspec.structs.replace(LIMITS, stall_s=5.0)
TROUBLE = (InstanceUnavailable, TransferFailed, ProtocolError)
FAULTS = [
    *(Fault(kind, Direction.TO_CLIENT, after) for kind in (Kind.CUT, Kind.FLIP) for after in (0, 150)),
    Fault(Kind.STALL, Direction.TO_CLIENT, 150),
    Fault(Kind.CUT, Direction.TO_SERVER, 10),
]
WRITE_FAULTS = [
    *(Fault(kind, Direction.TO_SERVER, after) for kind in (Kind.CUT, Kind.FLIP) for after in (10, 200)),
    Fault(Kind.STALL, Direction.TO_SERVER, 200),
    Fault(Kind.CUT, Direction.TO_CLIENT, 0),
]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_nixl_fetch_whose_arrangement_goes_wrong_is_told_in_time_and_the_next_one_succeeds(
    sender: Side, receiver: Side, make_proxy: MakeProxy, fault: Fault
) -> None:
    agent = NixlAgent(f"receiver/{time.time_ns()}", clock=SystemClock())
    transport = NixlTransport(agent, clock=SystemClock(), limits=HASTY)
    proxy = make_proxy(sender.info.data, fault)
    blocks, targets = sender.fill(N), receiver.fill(N)
    sender.nixl.show([sender.core.memory.view(block) for block in blocks])
    copies = receiver.copies_of(sender, blocks, targets)
    with sender.offer(blocks) as ticket:
        broken = Offer(peer=msgspec.structs.replace(sender.info, data=proxy.endpoint), transfer=TRANSFER, ticket=ticket)
        with pytest.raises(TROUBLE):
            transport.fetch(broken, copies)
        proxy.cut_all()
        transport.fetch(Offer(peer=sender.info, transfer=TRANSFER, ticket=ticket), copies)
    assert receiver.read(targets) == sender.read(blocks)
    transport.close()
    agent.close()


def test_a_flipped_bit_in_what_is_shown_to_nixl_never_reaches_ucx(
    sender: Side, receiver: Side, make_proxy: MakeProxy
) -> None:
    agent = NixlAgent(f"receiver/{time.time_ns()}", clock=SystemClock())
    transport = NixlTransport(agent, clock=SystemClock(), limits=LIMITS)
    proxy = make_proxy(sender.info.data, Fault(Kind.FLIP, Direction.TO_CLIENT, 150))
    blocks, targets = sender.fill(1), receiver.fill(1)
    with sender.offer(blocks) as ticket:
        peer = msgspec.structs.replace(sender.info, data=proxy.endpoint)
        with pytest.raises(ProtocolError):
            transport.fetch(
                Offer(peer=peer, transfer=TRANSFER, ticket=ticket), receiver.copies_of(sender, blocks, targets)
            )
    assert "not in use" in repr(agent)
    transport.close()


def test_a_withdrawn_offer_ends_what_nixl_is_shown(sender: Side) -> None:
    blocks = sender.fill(1)
    connections = Connections(limits=LIMITS, clock=SystemClock())
    with connections.borrow(sender.info.data) as framed:
        with sender.offer(blocks) as ticket:
            framed.send(ExposeRequest(transfer=TRANSFER, ticket=ticket, blocks=(block_index(blocks[0]),)))
            reply, _ = framed.receive()
            assert isinstance(reply, ExposeReply)
        assert not framed.wait(seconds=10)  # cut off, nothing said
    connections.close()


def test_a_receiver_that_does_not_read_by_nixl_says_so_and_its_room_takes_bytes_by_another_path(
    sender: Side, receiver: Side, tcp: TcpTransport
) -> None:
    receiver.server.close()
    receiver.server = DataServer(network=LOOPBACK, door=receiver.door, clock=SystemClock(), limits=LIMITS)
    room, blocks = receiver.reserve(N, endpoint=receiver.server.start())
    data = sender.read(sender.fill(N))
    writer = NixlTransport(NixlAgent(f"sender/{time.time_ns()}", clock=SystemClock()), clock=SystemClock())
    with pytest.raises(TransferFailed, match="allow the path on both sides"):
        writer.write(room, parts_for(blocks, data))
    tcp.write(room, parts_for(blocks, data))
    receiver.commit(N)
    assert receiver.read(blocks) == data
    writer.close()


@pytest.mark.parametrize("fault", WRITE_FAULTS, ids=str)
def test_a_nixl_write_whose_arrangement_goes_wrong_is_told_in_time_and_can_be_repeated(
    sender: Side, receiver: Side, make_proxy: MakeProxy, fault: Fault
) -> None:
    writer = NixlTransport(
        NixlAgent(f"sender/{time.time_ns()}", clock=SystemClock()), clock=SystemClock(), limits=HASTY
    )
    data = sender.read(sender.fill(N))
    proxy = make_proxy(receiver.info.data, fault)
    room, blocks = receiver.reserve(N)
    with pytest.raises(TROUBLE):
        writer.write(msgspec.structs.replace(room, endpoint=proxy.endpoint), parts_for(blocks, data))
    proxy.cut_all()
    assert receiver.num_visible(N) == 0
    writer.write(room, parts_for(blocks, data))
    receiver.commit(N)
    assert receiver.read(blocks) == data
    writer.close()


@pytest.mark.parametrize("num_addresses", [0, N - 1, N + 1])
def test_a_writer_that_shows_more_or_less_than_it_announces_is_refused_and_nothing_counts(
    sender: Side, receiver: Side, num_addresses: int
) -> None:
    room, blocks = receiver.reserve(N)
    (part,) = parts_for(blocks, sender.read(sender.fill(N)), at_once=N)
    shown = sender.nixl.show([*part.data, part.data[0]])
    addresses = shown.addresses[:num_addresses]
    digest = expose_digest(shown.agent, shown.metadata, addresses)
    lying = msgspec.structs.replace(shown, addresses=addresses, digest=digest)
    connections = Connections(limits=LIMITS, clock=SystemClock())
    with connections.borrow(room.endpoint) as framed:
        framed.send(ShownWriteRequest(write=write_request(room, part), shown=lying))
        with pytest.raises(TransferFailed, match=f"shows {num_addresses} pieces where {N} are wanted"):
            framed.receive()
    with pytest.raises(TransferFailed, match="blocks are verified"):
        receiver.commit(N)
    connections.close()


def test_without_nixl_a_pool_that_is_to_use_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nixl._api", None)
    with pytest.raises(ConfigError, match=r"memserve\[nixl\]"):
        load_nixl()

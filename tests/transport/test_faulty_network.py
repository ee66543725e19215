"""A network that cuts, stalls and corrupts: never a visible half block, nothing leaked, bounded time."""

import time
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from memserve.core.clock import SystemClock
from memserve.core.errors import InstanceUnavailable, ProtocolError, TransferFailed
from memserve.transport.base import Offer
from memserve.transport.tcp import TcpTransport
from tests.transport.conftest import MakeProxy
from tests.transport.parts import BLOCK_BYTES, LIMITS, TRANSFER, Side, parts_for
from tests.transport.proxy import Direction, Fault, FaultyProxy, Kind

N = 6
TROUBLE = (InstanceUnavailable, TransferFailed, ProtocolError)
BOUND_S = 10.0
"""Far above the limits of the connections, far below the patience of a test."""

PLACES = (0, 3, 40, 1000, BLOCK_BYTES, 2 * BLOCK_BYTES + 5000, N * BLOCK_BYTES - 1)
FAULTS = [
    *(Fault(kind, Direction.TO_SERVER, after) for kind in (Kind.CUT, Kind.STALL) for after in PLACES),
    *(Fault(kind, Direction.TO_CLIENT, after) for kind in (Kind.CUT, Kind.STALL) for after in (0, 3, 20)),
    *(Fault(Kind.FLIP, Direction.TO_SERVER, after) for after in PLACES),
]
READ_FAULTS = [
    *(Fault(kind, Direction.TO_CLIENT, after) for kind in (Kind.CUT, Kind.STALL) for after in PLACES),
    *(Fault(kind, Direction.TO_SERVER, after) for kind in (Kind.CUT, Kind.STALL) for after in (0, 3, 40)),
    *(Fault(Kind.FLIP, Direction.TO_CLIENT, after) for after in PLACES),
]


def write_all(tcp: TcpTransport, receiver: Side, proxy: FaultyProxy, data: list[bytes]) -> None:
    room, blocks = receiver.reserve(N, endpoint=proxy.endpoint)
    tcp.write(room, parts_for(blocks, data))


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_write_that_goes_wrong_is_told_and_can_be_given_up_without_a_trace(
    sender: Side, receiver: Side, impatient_tcp: TcpTransport, make_proxy: MakeProxy, fault: Fault
) -> None:
    proxy = make_proxy(receiver.info.data, fault)
    begin = time.monotonic()
    with pytest.raises(TROUBLE):
        write_all(impatient_tcp, receiver, proxy, sender.read(sender.fill(N)))
    assert receiver.num_visible(N) == 0
    receiver.abort()
    proxy.cut_all()
    receiver.server.close()  # waits until nothing is written any more
    assert time.monotonic() - begin < BOUND_S
    assert receiver.is_free_of_transfers()
    assert receiver.core.ledger.stats()[0].num_free == receiver.arena.num_blocks


@pytest.mark.parametrize("fault", [f for f in FAULTS if f.kind is not Kind.STALL], ids=str)
def test_a_write_that_goes_wrong_cannot_be_committed_until_it_was_repeated(
    sender: Side, receiver: Side, tcp: TcpTransport, make_proxy: MakeProxy, fault: Fault
) -> None:
    data = sender.read(sender.fill(N))
    proxy = make_proxy(receiver.info.data, fault)
    room, blocks = receiver.reserve(N, endpoint=proxy.endpoint)
    with pytest.raises(TROUBLE):
        tcp.write(room, parts_for(blocks, data))
    direct = msgspec.structs.replace(room, endpoint=receiver.info.data)
    if fault.direction is Direction.TO_SERVER:  # else all bytes may have come, and only the answer was lost
        with pytest.raises(TransferFailed, match="of 6 blocks are verified"):
            receiver.commit(N)
        assert receiver.num_visible(N) == 0
    proxy.cut_all()
    until_disconnected(receiver)
    tcp.write(direct, parts_for(blocks, data))
    receiver.commit(N)
    assert receiver.num_visible(N) == N
    assert receiver.read(blocks) == data
    assert receiver.is_free_of_transfers()


def until_disconnected(receiver: Side) -> None:
    """What was under way at the server when its connections were cut has ended."""
    end = time.monotonic() + BOUND_S
    while receiver.server.stats().num_connections:
        assert time.monotonic() < end


@pytest.mark.parametrize("fault", READ_FAULTS, ids=str)
def test_a_fetch_that_goes_wrong_is_told_in_time_and_the_next_one_succeeds(
    sender: Side, receiver: Side, impatient_tcp: TcpTransport, make_proxy: MakeProxy, fault: Fault
) -> None:
    proxy = make_proxy(sender.info.data, fault)
    blocks, targets = sender.fill(N), receiver.fill(N)
    copies = receiver.copies_of(sender, blocks, targets)
    begin = time.monotonic()
    with sender.offer(blocks) as ticket:
        broken = Offer(peer=msgspec.structs.replace(sender.info, data=proxy.endpoint), transfer=TRANSFER, ticket=ticket)
        with pytest.raises(TROUBLE) as failure:
            impatient_tcp.fetch(broken, copies)
        assert time.monotonic() - begin < BOUND_S
        assert str(failure.value)
        impatient_tcp.fetch(Offer(peer=sender.info, transfer=TRANSFER, ticket=ticket), copies)
    assert receiver.read(targets) == sender.read(blocks)


def test_several_connections_fill_one_reservation_at_once(sender: Side, receiver: Side, tcp: TcpTransport) -> None:
    """As the ranks of an engine do."""
    data = sender.read(sender.fill(N))
    room, blocks = receiver.reserve(N)
    with ThreadPoolExecutor(N) as threads:
        list(threads.map(lambda part: tcp.write(room, [part]), parts_for(blocks, data, at_once=2)))
    receiver.commit(N)
    assert receiver.read(blocks) == data
    assert 1 <= receiver.server.stats().num_connections <= 3


def test_crumbs_are_put_together(sender: Side, receiver: Side, tcp: TcpTransport, make_proxy: MakeProxy) -> None:
    data = sender.read(sender.fill(N))
    write_all(tcp, receiver, make_proxy(receiver.info.data, Fault(Kind.CRUMBS)), data)
    receiver.commit(N)
    assert receiver.num_visible(N) == N
    assert receiver.is_free_of_transfers()


def test_a_receiver_that_restarts_its_server_costs_one_connection_and_no_error(
    sender: Side, receiver: Side, tcp: TcpTransport, make_proxy: MakeProxy
) -> None:
    proxy = make_proxy(receiver.info.data, Fault(Kind.NONE))
    data = sender.read(sender.fill(N))
    room, blocks = receiver.reserve(N, endpoint=proxy.endpoint)
    tcp.write(room, parts_for(blocks[:2], data[:2]))
    proxy.cut_all()  # while the connection is idle at the sender
    until_disconnected(receiver)
    tcp.write(room, parts_for(blocks[2:], data[2:]))
    receiver.commit(N)
    assert receiver.read(blocks) == data


def test_closing_the_transport_ends_a_fetch_that_waits(sender: Side, receiver: Side, make_proxy: MakeProxy) -> None:
    patient = TcpTransport(clock=SystemClock(), limits=msgspec.structs.replace(LIMITS, stall_s=60.0))
    proxy = make_proxy(sender.info.data, Fault(Kind.STALL, Direction.TO_CLIENT, 5))
    blocks, targets = sender.fill(1), receiver.fill(1)
    copies = receiver.copies_of(sender, blocks, targets)
    with sender.offer(blocks) as ticket, ThreadPoolExecutor(1) as thread:
        offer = Offer(peer=msgspec.structs.replace(sender.info, data=proxy.endpoint), transfer=TRANSFER, ticket=ticket)
        waiting = thread.submit(patient.fetch, offer, copies)
        assert proxy.stalled.wait(BOUND_S)
        patient.close()
        with pytest.raises(InstanceUnavailable):
            waiting.result(timeout=BOUND_S)

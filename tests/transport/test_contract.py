"""What every path must do that brings blocks here: shared memory, data connections, a network of crumbs, NIXL."""

import time
from collections.abc import Iterator
from functools import partial

import msgspec
import pytest

from memserve.config import Network
from memserve.core.clock import SystemClock
from memserve.core.errors import InstanceUnavailable, MemserveError, TransferFailed
from memserve.security.tls_files import TlsFiles
from memserve.storage.shared_memory import attach
from memserve.transport.base import Offer, Transport
from memserve.transport.nixl import NixlTransport
from memserve.transport.nixl_agent import NixlAgent, load_nixl
from memserve.transport.shm import SharedMemoryTransport
from memserve.transport.tcp import TcpTransport
from memserve.transport.tcp_server import DataServer
from memserve.transport.verified_copy import CopyThreads
from memserve.wire.messages import PeerInfo
from tests.transport.conftest import MakeProxy
from tests.transport.parts import BLOCK_BYTES, LIMITS, NUM_BLOCKS, TRANSFER, Side
from tests.transport.paths import NEEDS_NIXL
from tests.transport.proxy import Direction, Fault, Kind

N = 5
NIXL = pytest.param("nixl", marks=NEEDS_NIXL)
PARTED = msgspec.structs.replace(LIMITS, range_bytes=2 * BLOCK_BYTES)


@pytest.fixture(params=["shm", "tcp", "tcp in crumbs", "tcp in ranges", "tls", NIXL])
def peer(
    request: pytest.FixtureRequest, sender: Side, make_proxy: MakeProxy, tls: TlsFiles, tls_server: DataServer
) -> PeerInfo:
    """The sender as the receiver sees it."""
    if request.param == "shm":
        return msgspec.structs.replace(sender.info, data="")
    if request.param in {"tcp", "tcp in ranges"}:
        return msgspec.structs.replace(sender.info, arena=None)
    if request.param == "tls":
        sender.server.close()
        sender.server = tls_server
        return msgspec.structs.replace(sender.info, arena=None, data=tls_server.start())
    if request.param == "nixl":
        load_nixl()
        return msgspec.structs.replace(sender.info, arena=None, nixl=True)
    proxy = make_proxy(sender.info.data, Fault(Kind.CRUMBS, Direction.TO_CLIENT))
    return msgspec.structs.replace(sender.info, arena=None, data=proxy.endpoint)


@pytest.fixture
def transport(request: pytest.FixtureRequest, peer: PeerInfo, tls: TlsFiles) -> Iterator[Transport]:
    is_parted = "tcp in ranges" in request.node.name
    threads = CopyThreads(3, shared_bytes=1)
    agent = NixlAgent(f"receiver/{time.time_ns()}", clock=SystemClock())
    made: Transport
    if peer.arena is not None:
        made = SharedMemoryTransport(partial(attach, writable=False), threads=threads)
    elif peer.nixl:
        made = NixlTransport(agent, clock=SystemClock(), limits=LIMITS)
    elif peer.data.startswith("tls:"):
        made = TcpTransport(clock=SystemClock(), threads=threads, limits=LIMITS, network=Network(tls=tls))
    else:
        made = TcpTransport(clock=SystemClock(), threads=threads, limits=PARTED if is_parted else LIMITS)
    yield made
    made.close()
    agent.close()
    threads.close()


def test_all_blocks_arrive_where_they_should(
    sender: Side, receiver: Side, peer: PeerInfo, transport: Transport
) -> None:
    blocks, targets = sender.fill(N), receiver.fill(N)
    with sender.offer(blocks) as ticket:
        transport.fetch(
            Offer(peer=peer, transfer=TRANSFER, ticket=ticket), receiver.copies_of(sender, blocks, targets[::-1])
        )
    assert receiver.read(targets[::-1]) == sender.read(blocks)


def test_fetching_again_and_again_gives_the_same(
    sender: Side, receiver: Side, peer: PeerInfo, transport: Transport
) -> None:
    blocks, targets = sender.fill(N), receiver.fill(N)
    with sender.offer(blocks) as ticket:
        for _ in range(5):
            transport.fetch(
                Offer(peer=peer, transfer=TRANSFER, ticket=ticket), receiver.copies_of(sender, blocks, targets)
            )
    assert receiver.read(targets) == sender.read(blocks)
    assert sender.server.stats().num_connections <= LIMITS.max_connections


@pytest.mark.parametrize("position", [0, N - 1])
def test_a_block_that_is_not_what_was_announced_fails_the_fetch(
    sender: Side, receiver: Side, peer: PeerInfo, transport: Transport, position: int
) -> None:
    blocks, targets = sender.fill(N), receiver.fill(N)
    announced = receiver.copies_of(sender, blocks, targets)
    sender.core.memory.view(blocks[position])[7] ^= 1
    with sender.offer(blocks) as ticket, pytest.raises(TransferFailed, match="checksum"):
        transport.fetch(Offer(peer=peer, transfer=TRANSFER, ticket=ticket), announced)


def test_a_source_beyond_the_arena_is_refused_and_touches_no_target(
    sender: Side, receiver: Side, peer: PeerInfo, transport: Transport
) -> None:
    blocks, targets = sender.fill(1), receiver.fill(1)
    before = receiver.read(targets)
    outside = msgspec.structs.replace(receiver.copies_of(sender, blocks, targets)[0], source_index=NUM_BLOCKS)
    with sender.offer(blocks) as ticket, pytest.raises(MemserveError):
        transport.fetch(Offer(peer=peer, transfer=TRANSFER, ticket=ticket), [outside])
    assert receiver.read(targets) == before


def test_a_sender_that_is_gone_is_unavailable(
    sender: Side, receiver: Side, peer: PeerInfo, transport: Transport
) -> None:
    blocks, targets = sender.fill(1), receiver.fill(1)
    announced = receiver.copies_of(sender, blocks, targets)
    sender.close()
    with pytest.raises(InstanceUnavailable):
        transport.fetch(Offer(peer=peer, transfer=TRANSFER, ticket=b""), announced)


def test_a_path_reaches_only_whom_it_can(peer: PeerInfo, transport: Transport) -> None:
    assert transport.reaches(peer)
    assert not transport.reaches(msgspec.structs.replace(peer, arena=None, data=""))
    if peer.arena is not None:
        elsewhere = msgspec.structs.replace(peer.arena, host="another host")
        assert not transport.reaches(msgspec.structs.replace(peer, arena=elsewhere))


def test_closing_twice_is_closing_once(transport: Transport) -> None:
    transport.close()
    transport.close()

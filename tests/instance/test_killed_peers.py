"""Peers killed with SIGKILL in the middle: nothing leaks, nothing half is ever found."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from memserve.config import LOOPBACK
from memserve.core.clock import SystemClock
from memserve.core.enums import DataPath
from memserve.core.errors import InstanceUnavailable
from memserve.core.ids import TransferId, block_index
from memserve.instance.mempool import HandoffState, MemPool
from memserve.storage.shared_memory import sweep
from memserve.transport.room_writers import RoomWriters
from memserve.transport.rooms import Part, RemoteRoom
from memserve.wire.messages import ReserveRequest
from tests.instance.conftest import BLOCK_BYTES, CLUSTER, MakePool
from tests.instance.contents import contents, prompt
from tests.instance.peer_process import DATA, REQUEST
from tests.transport.paths import NEEDS_NIXL, PATHS

Peer = "subprocess.Popen[str]"
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(a: MemPool) -> Iterator[Start]:
    """Start a peer that does something to pool `a`; returns once it has done it."""
    peers: list[subprocess.Popen[str]] = []

    def begin(
        deed: str, *paths: DataPath, endpoint: str | None = None, instance: str = "peer"
    ) -> "subprocess.Popen[str]":
        target = a.info.endpoint if endpoint is None else endpoint
        peers.append(
            subprocess.Popen(
                [sys.executable, "-m", "tests.instance.peer_process", CLUSTER, instance, target, deed, *paths],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        return peers[-1]

    yield begin
    for peer in peers:
        peer.kill()
        peer.communicate()
    sweep(CLUSTER)


def said(peer: "subprocess.Popen[str]") -> str:
    assert peer.stdout is not None
    return peer.stdout.readline().strip()


def kill(peer: "subprocess.Popen[str]") -> None:
    peer.kill()
    peer.wait()


def num_reserved(pool: MemPool) -> int:
    return pool.stats().tiers[0].num_reserved


@pytest.mark.parametrize(("deed", "num_blocks"), [("allocate", 3), ("reserve", 3)])
def test_what_a_killed_peer_held_is_free_when_it_comes_back(
    a: MemPool, start: Start, deed: str, num_blocks: int
) -> None:
    first = start(deed)
    assert said(first)
    assert num_reserved(a) == num_blocks
    kill(first)
    assert said(start("connect"))
    assert num_reserved(a) == 0
    assert a.stats().num_transfers_open == 0
    assert a.match(DATA).num_tokens == 0
    assert a.engine_path.handoff(REQUEST, DATA).state is HandoffState.ABSENT
    a.local.check()


def test_a_peer_that_is_replaced_while_it_still_runs_keeps_the_room_it_may_be_writing_into(
    a: MemPool, start: Start
) -> None:
    assert said(start("reserve"))
    assert said(start("connect"))
    assert num_reserved(a) == 3


def test_what_was_committed_before_the_kill_is_handed_over(a: MemPool, start: Start) -> None:
    peer = start("commit")
    assert said(peer)
    kill(peer)
    assert said(start("connect"))
    handoff = a.engine_path.handoff(REQUEST, DATA)
    assert (handoff.state, handoff.num_tokens) == (HandoffState.READY, 10)
    assert bytes(a.view(handoff.blocks[0])) == b"1" * BLOCK_BYTES
    a.engine_path.finish_handoff(REQUEST, DATA)
    assert num_reserved(a) == 0
    assert a.stats().num_leases == 0


@pytest.mark.parametrize("path", PATHS)
def test_a_sender_killed_among_transfers_leaves_only_whole_prompts(
    make_pool: MakePool, start: Start, path: DataPath
) -> None:
    receiver = make_pool("receiver", dram_bytes=256 * BLOCK_BYTES, paths=(path,))
    for num_prompts in (1, 2, 4):
        while receiver.take_received(deadline_s=0):
            pass  # of the round before
        peer = start("stream", path, endpoint=receiver.info.endpoint)
        assert said(peer)
        for _ in range(num_prompts):
            assert receiver.take_received(deadline_s=10)
        kill(peer)
        assert said(start("connect", endpoint=receiver.info.endpoint))
        num_found = 0
        for number in range(200):
            with receiver.match(prompt(number)) as match:
                assert receiver.read(match.addresses) == contents(number)[: match.num_tokens // 4 * BLOCK_BYTES]
                num_found += match.num_tokens > 0
        assert num_found >= num_prompts
        assert num_reserved(receiver) == 0
        assert receiver.stats().num_transfers_open == 0
        receiver.local.check()


def test_a_killed_receiver_is_unavailable_in_bounded_time_and_the_sender_is_unharmed(a: MemPool, start: Start) -> None:
    peer = start("connect", endpoint="", instance="victim")
    info = a.connect(said(peer))
    blocks = a.alloc_mem(1)
    a.transfer_with_insert(info, [1, 2, 3, 4], blocks)
    kill(peer)
    with pytest.raises(InstanceUnavailable):
        a.alloc_mem(1, on=info)
    a.free_mem(blocks)
    assert num_reserved(a) == 0


@pytest.mark.parametrize(
    ("deed", "path"),
    [("write half", DataPath.TCP), pytest.param("show only", DataPath.NIXL, marks=NEEDS_NIXL)],
)
def test_a_writer_killed_in_the_middle_of_a_frame_leaves_nothing(
    make_pool: MakePool, start: Start, deed: str, path: DataPath
) -> None:
    a = make_pool("a", paths=(path,))
    peer = start(deed, path, endpoint=a.info.endpoint)
    assert said(peer)
    assert num_reserved(a) == 2
    kill(peer)
    assert said(start("connect", path, endpoint=a.info.endpoint))
    end = time.monotonic() + 30
    while num_reserved(a):  # until the dead connection and the next expiry have come
        assert time.monotonic() < end
        time.sleep(0.05)
    assert (a.stats().num_transfers_open, a.stats().num_handoffs, a.match(DATA).num_tokens) == (0, 0, 0)
    a.local.check()


@pytest.mark.parametrize("path", [path for path in PATHS if DataPath.SHM not in path.values])
def test_a_receiver_killed_between_frames_is_told_to_the_writer_at_once(
    make_pool: MakePool, start: Start, path: DataPath
) -> None:
    a = make_pool("a", paths=(path,))
    peer = start("connect", path, endpoint="", instance="victim")
    info = a.connect(said(peer))
    asked = ReserveRequest(
        transfer=TransferId("a/1"),
        request=REQUEST,
        sender=a.info.instance,
        incarnation=a.info.incarnation,
        tokens=bytes(16 * 4 * 4),
        namespace=b"",
        reuse=False,
        tail=False,
        handoff=True,
        ttl_s=60,
        path=path,
    )
    reply = a.engine_path.reserve(info, asked).result()

    def parts() -> Iterator[Part]:
        for number, block in enumerate(reply.blocks):
            if number == 3:
                kill(peer)
            yield Part(blocks=(block_index(block),), offset=0, data=(memoryview(bytes(BLOCK_BYTES)),))

    network = RoomWriters((path,), name=f"a/{time.time_ns()}", network=LOOPBACK, clock=SystemClock())
    begin = time.monotonic()
    with pytest.raises(InstanceUnavailable):
        network.write(RemoteRoom(endpoint=info.data, transfer=asked.transfer, ticket=reply.ticket, path=path), parts())
    assert time.monotonic() - begin < 5
    network.close()


def test_a_killed_pools_memory_is_removed_when_the_next_of_its_cluster_starts(
    make_pool: MakePool, start: Start
) -> None:
    peer = start("connect")
    info_endpoint = said(peer)
    assert info_endpoint
    kill(peer)
    make_pool("next")
    assert sweep(CLUSTER) == ()

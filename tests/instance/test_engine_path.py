"""Reserve, write into the peer's memory, commit, load: what an engine does with two pools."""

import os

import pytest

from memserve.core.errors import InstanceUnavailable, TransferFailed
from memserve.core.ids import RequestId, TransferId, block_index
from memserve.instance.mempool import HandoffState, MemPool
from memserve.rpc.channel import RpcClient
from memserve.storage.shared_memory import attach
from memserve.wire.messages import CommitRequest, PeerInfo, PeerMessage, ReleaseRequest, ReserveReply, ReserveRequest
from tests.instance.conftest import BLOCK_BYTES

REQUEST = RequestId("r1")
TRANSFER = TransferId("a/1/1")
TOKENS = b"".join(token.to_bytes(4, "little") for token in range(10))


def reserve(pool: MemPool, peer: PeerInfo, *, name: TransferId = TRANSFER, tokens: bytes = TOKENS) -> ReserveReply:
    return pool.engine_path.reserve(
        peer,
        ReserveRequest(
            transfer=name,
            request=REQUEST,
            sender=pool.info.instance,
            incarnation=pool.info.incarnation,
            tokens=tokens,
            namespace=b"",
            reuse=True,
            tail=True,
            handoff=True,
            ttl_s=60,
        ),
    ).result()


def write(peer: PeerInfo, reply: ReserveReply) -> bytes:
    assert peer.arena is not None
    arena = attach(peer.arena)
    data = os.urandom(len(reply.blocks) * BLOCK_BYTES)
    for position, block in enumerate(reply.blocks):
        arena.view(block_index(block))[:] = data[position * BLOCK_BYTES : (position + 1) * BLOCK_BYTES]
    arena.close()
    return data


def commit(pool: MemPool, peer: PeerInfo, num_blocks: int) -> None:
    pool.engine_path.commit(peer, CommitRequest(transfer=TRANSFER, num_blocks=num_blocks, insert=True)).result()


def num_reserved(pool: MemPool) -> int:
    return pool.stats().tiers[0].num_reserved


def test_kv_written_into_reserved_room_is_handed_over_whole(a: MemPool, b: MemPool) -> None:
    peer = a.connect(b.info.endpoint)
    reply = reserve(a, peer)
    assert b.engine_path.handoff(REQUEST, TOKENS).state is HandoffState.PENDING
    data = write(peer, reply)
    commit(a, peer, 3)
    handoff = b.engine_path.handoff(REQUEST, TOKENS)
    assert (handoff.state, handoff.num_tokens) == (HandoffState.READY, 10)
    assert b"".join(bytes(b.view(block)) for block in handoff.blocks) == data
    b.engine_path.finish_handoff(REQUEST, TOKENS)
    assert (num_reserved(b), b.stats().num_leases, b.match(TOKENS).num_tokens) == (0, 0, 8)


def test_the_next_turn_sends_only_what_is_new(a: MemPool, b: MemPool) -> None:
    peer = a.connect(b.info.endpoint)
    write(peer, reserve(a, peer))
    commit(a, peer, 3)
    longer = TOKENS + b"\x07\x00\x00\x00" * 8
    reply = reserve(a, peer, name=TransferId("a/1/2"), tokens=longer)
    assert (reply.num_held_blocks, len(reply.blocks)) == (2, 3)


def test_an_aborted_reservation_is_freed_at_once(a: MemPool, b: MemPool) -> None:
    peer = a.connect(b.info.endpoint)
    reserve(a, peer)
    a.engine_path.abort(peer, TRANSFER).result()
    assert num_reserved(b) == 0
    with pytest.raises(TransferFailed, match="aborted"):
        commit(a, peer, 3)


def test_a_release_on_the_receivers_side_gives_back_what_was_kept(a: MemPool, b: MemPool) -> None:
    peer = a.connect(b.info.endpoint)
    write(peer, reserve(a, peer))
    commit(a, peer, 3)
    b.engine_path.release_request(REQUEST)
    assert (num_reserved(b), b.stats().num_handoffs) == (0, 0)


async def test_a_worker_commits_and_a_gateway_releases_without_a_handshake(a: MemPool, b: MemPool) -> None:
    peer = a.connect(b.info.endpoint)
    write(peer, reserve(a, peer))
    anyone: RpcClient[object] = RpcClient(b.info.endpoint, PeerMessage)
    await anyone.call(CommitRequest(transfer=TRANSFER, num_blocks=3, insert=True), deadline_s=5)
    assert b.engine_path.handoff(REQUEST, TOKENS).state is HandoffState.READY
    await anyone.call(ReleaseRequest(request=REQUEST), deadline_s=5)
    assert b.engine_path.handoff(REQUEST, TOKENS).state is HandoffState.ABSENT
    await anyone.close()


def test_calls_under_way_end_when_the_pool_closes_and_later_ones_are_refused(a: MemPool) -> None:
    nobody = PeerInfo(
        instance=a.info.instance, incarnation=a.info.incarnation, endpoint="tcp://127.0.0.1:9", identity=a.info.identity
    )
    waiting = a.engine_path.abort(nobody, TRANSFER)
    a.close()
    with pytest.raises(InstanceUnavailable):
        waiting.result(timeout=5)
    with pytest.raises(InstanceUnavailable, match="closed"):
        a.engine_path.abort(nobody, TRANSFER)
    a.close()

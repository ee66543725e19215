"""Peers that do not fit, do not behave or do not speak the protocol: typed errors, pool unharmed."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
import zmq.asyncio

from memserve.core.enums import Tier
from memserve.core.errors import (
    IdentityMismatch,
    InstanceUnavailable,
    InvalidBlocks,
    InvalidTokens,
    MemserveError,
    PoolExhausted,
    ProtocolError,
    TransferFailed,
)
from memserve.core.ids import BlockId, Incarnation, InstanceId, RequestId, TransferId
from memserve.instance.mempool import MemPool
from memserve.instance.setup import default_identity
from memserve.rpc.channel import RpcClient
from memserve.wire.messages import (
    AckReply,
    AllocReply,
    AllocRequest,
    ArenaRef,
    BlockList,
    ErrorReply,
    FreeRequest,
    HelloRequest,
    PeerInfo,
    PeerMessage,
    PullRequest,
    ReserveRequest,
    StatsReply,
    StatsRequest,
    TransferRequest,
)
from tests.instance.conftest import BLOCK_BYTES, BLOCK_SIZE, MakePool

IDENTITY = default_identity(block_size=BLOCK_SIZE, block_bytes=BLOCK_BYTES)


def peer_info(*, instance: str = "stranger", incarnation: int = 5, arena: ArenaRef | None = None) -> PeerInfo:
    return PeerInfo(
        instance=InstanceId(instance),
        incarnation=Incarnation(incarnation),
        endpoint="tcp://127.0.0.1:9",
        identity=IDENTITY,
        arena=arena,
    )


@pytest.fixture
async def stranger(a: MemPool) -> AsyncIterator[RpcClient[object]]:
    client: RpcClient[object] = RpcClient(a.info.endpoint, PeerMessage)
    yield client
    await client.close()


def is_unharmed(pool: MemPool) -> bool:
    pool.local.check()
    stats = pool.stats()
    return stats.tiers[0].num_free == stats.tiers[0].num_blocks and stats.num_transfers_open == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", "another"),
        ("dtype", "float16"),
        ("engine", "vllm-9"),
        ("backend", "avx512"),
        ("num_layers", 99),
        ("protocol", 2),
    ],
)
def test_a_peer_with_another_identity_is_refused_by_the_name_of_the_field(
    a: MemPool, make_pool: MakePool, field: str, value: object
) -> None:
    other = make_pool("other", identity=msgspec.structs.replace(IDENTITY, **{field: value}))
    for one, two in ((a, other), (other, a)):
        with pytest.raises(IdentityMismatch, match=field):
            one.connect(two.info.endpoint)


@pytest.mark.parametrize("change", [{"block_size": 8}, {"block_bytes": 8192}])
def test_a_peer_with_another_block_shape_is_refused(a: MemPool, make_pool: MakePool, change: dict[str, int]) -> None:
    other = make_pool("other", **change)
    with pytest.raises(IdentityMismatch, match=next(iter(change))):
        a.connect(other.info.endpoint)


async def test_who_has_not_said_hello_gets_no_blocks(a: MemPool, stranger: RpcClient[object]) -> None:
    asked = AllocRequest(
        num_blocks=1, tier=Tier.DRAM, owner=InstanceId("stranger"), incarnation=Incarnation(5), ttl_s=60
    )
    with pytest.raises(InstanceUnavailable, match="say hello"):
        await stranger.call(asked, deadline_s=5)
    assert is_unharmed(a)


async def test_nobody_speaks_for_another(a: MemPool, stranger: RpcClient[object]) -> None:
    await stranger.call(HelloRequest(peer=peer_info()), deadline_s=5)
    asked = AllocRequest(num_blocks=1, tier=Tier.DRAM, owner=InstanceId("b"), incarnation=Incarnation(5), ttl_s=60)
    with pytest.raises(ProtocolError, match="speaks for b/5"):
        await stranger.call(asked, deadline_s=5)
    assert is_unharmed(a)


async def test_an_earlier_life_is_not_served_after_a_later_one(a: MemPool, stranger: RpcClient[object]) -> None:
    await stranger.call(HelloRequest(peer=peer_info(incarnation=5)), deadline_s=5)
    later: RpcClient[object] = RpcClient(a.info.endpoint, PeerMessage)
    await later.call(HelloRequest(peer=peer_info(incarnation=6)), deadline_s=5)
    with pytest.raises(InstanceUnavailable):
        await stranger.call(FreeRequest(blocks=(BlockId(1),)), deadline_s=5)
    with pytest.raises(InstanceUnavailable, match="replaced"):
        await stranger.call(HelloRequest(peer=peer_info(incarnation=5)), deadline_s=5)
    await later.close()


SOURCE = BlockList(instance=InstanceId("stranger"), incarnation=Incarnation(5), blocks=(BlockId(1 << 60),))
TRANSFER = TransferRequest(transfer=TransferId("s/5/1"), source=SOURCE, tier=Tier.DRAM, checksums=(0,))
PULL = PullRequest(
    transfer=TransferId("pull/stranger/5/1"), tokens=b"\x00" * 16, namespace=b"", num_held_tokens=0, deadline_s=5.0
)
RESERVE = ReserveRequest(
    transfer=TransferId("s/5/2"),
    request=RequestId("r"),
    sender=InstanceId("stranger"),
    incarnation=Incarnation(5),
    tokens=b"abc",
    namespace=b"",
    reuse=True,
    tail=True,
    handoff=True,
    ttl_s=60,
)


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (AckReply(), ProtocolError),
        (AllocReply(blocks=()), ProtocolError),
        (FreeRequest(blocks=()), InvalidBlocks),
        (FreeRequest(blocks=(BlockId(-1),)), InvalidBlocks),
        (FreeRequest(blocks=(BlockId(2**63),)), InvalidBlocks),
        (RESERVE, InvalidTokens),
        (msgspec.structs.replace(RESERVE, tokens=b"\x01\x00\x00\x00" * 4000), PoolExhausted),
        (TRANSFER, TransferFailed),
        (msgspec.structs.replace(TRANSFER, checksums=()), InvalidBlocks),
        (msgspec.structs.replace(TRANSFER, tokens=b"\x00" * 7), InvalidTokens),
        (msgspec.structs.replace(TRANSFER, destination=(BlockId(7),)), InvalidBlocks),
        (msgspec.structs.replace(PULL, tokens=b"\x00" * 7), InvalidTokens),
        (msgspec.structs.replace(PULL, num_held_tokens=-4), InvalidTokens),
        (msgspec.structs.replace(PULL, num_held_tokens=3), InvalidTokens),
        (msgspec.structs.replace(PULL, deadline_s=0.0), ProtocolError),
        (msgspec.structs.replace(PULL, deadline_s=float("nan")), ProtocolError),
        (msgspec.structs.replace(PULL, namespace=b"n" * 1000), ProtocolError),
        (msgspec.structs.replace(PULL, transfer=TransferId("pull/b/5/1")), ProtocolError),
    ],
)
async def test_a_request_that_makes_no_sense_is_refused_by_its_kind(
    a: MemPool, stranger: RpcClient[object], message: object, error: type[MemserveError]
) -> None:
    await stranger.call(HelloRequest(peer=peer_info()), deadline_s=5)
    with pytest.raises(error):
        await stranger.call(message, deadline_s=5)
    assert is_unharmed(a)


@pytest.mark.parametrize(
    "arena",
    [
        ArenaRef(host="elsewhere", path="/dev/shm/memserve-x", block_bytes=BLOCK_BYTES, num_blocks=4),  # noqa: S108
        ArenaRef(host="elsewhere", path="/etc/passwd", block_bytes=BLOCK_BYTES, num_blocks=4),
        ArenaRef(host="elsewhere", path="", block_bytes=0, num_blocks=-1),
    ],
)
async def test_an_arena_that_cannot_be_mapped_fails_the_transfer_and_leaves_nothing(
    a: MemPool, stranger: RpcClient[object], arena: ArenaRef
) -> None:
    await stranger.call(HelloRequest(peer=peer_info(arena=arena)), deadline_s=5)
    with pytest.raises(MemserveError):
        await stranger.call(TRANSFER, deadline_s=5)
    assert is_unharmed(a)


async def test_bytes_that_are_not_what_was_announced_are_not_published(
    a: MemPool, b: MemPool, stranger: RpcClient[object]
) -> None:
    await stranger.call(HelloRequest(peer=peer_info(arena=b.info.arena)), deadline_s=5)
    lie = msgspec.structs.replace(TRANSFER, tokens=b"\x01\x00\x00\x00" * BLOCK_SIZE, checksums=(12345,))
    with pytest.raises(TransferFailed, match="checksum"):
        await stranger.call(lie, deadline_s=5)
    assert a.match([1] * BLOCK_SIZE).num_tokens == 0
    assert is_unharmed(a)


async def test_garbage_between_requests_leaves_the_pool_serving(a: MemPool, b: MemPool) -> None:
    context = zmq.asyncio.Context()
    socket = context.socket(zmq.DEALER)
    socket.connect(a.info.endpoint)
    whole = msgspec.msgpack.encode(StatsRequest())
    for payload in (b"", b"\xdd\xff\xff\xff\xff", whole[:-1], b"\xc1" * 1000):
        await socket.send_multipart([b"12345678", payload])
        reply = (await asyncio.wait_for(socket.recv_multipart(), 5))[1]
        assert msgspec.msgpack.decode(reply, type=ErrorReply).kind == "ProtocolError"
    await socket.send_multipart([b"12345678", whole])
    reply = (await asyncio.wait_for(socket.recv_multipart(), 5))[1]
    assert msgspec.msgpack.decode(reply, type=StatsReply).num_leases == 0
    socket.close(linger=0)
    context.term()
    blocks = b.alloc_mem(1)
    b.transfer_with_insert(b.connect(a.info.endpoint), [1, 2, 3, 4], blocks)
    assert a.match([1, 2, 3, 4]).num_tokens == 4

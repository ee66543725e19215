"""A block goes by every path to every peer and is checked there; a path that spoils it is not used any more."""

import pytest

from memserve.core.enums import DataPath
from memserve.core.errors import InstanceUnavailable, TransferFailed
from memserve.core.ids import Incarnation
from memserve.instance.mempool import MemPool
from memserve.rpc.channel import RpcClient
from memserve.wire.messages import PathCheck, PeerInfo, PeerMessage, SelfTestReply, SelfTestRequest
from tests.instance.conftest import MakePool


async def self_test(pool: MemPool, *peers: PeerInfo, incarnation: int | None = None) -> tuple[PathCheck, ...]:
    me = pool.info
    request = SelfTestRequest(instance=me.instance, incarnation=Incarnation(incarnation or me.incarnation), peers=peers)
    client: RpcClient[object] = RpcClient(me.endpoint, PeerMessage)
    try:
        reply = await client.call(request, deadline_s=20)
    finally:
        await client.close()
    assert isinstance(reply, SelfTestReply)
    return reply.checks


def is_idle(pool: MemPool) -> bool:
    (dram,) = pool.stats().tiers
    return (dram.num_reserved, dram.num_cached, pool.stats().num_leases) == (0, 0, 0)


async def test_a_block_arrives_by_every_path_and_leaves_no_trace(a: MemPool, b: MemPool) -> None:
    checks = await self_test(a, b.info)
    assert {(c.source, c.target, c.path, c.is_right) for c in checks} == {
        ("a", "b", DataPath.SHM, True),
        ("a", "b", DataPath.TCP, True),
    }
    assert is_idle(a)
    assert is_idle(b)


async def test_a_path_that_only_one_side_allows_is_not_possible_and_no_fault(make_pool: MakePool) -> None:
    a, b = make_pool("a", paths=(DataPath.SHM, DataPath.TCP)), make_pool("b", paths=(DataPath.TCP,))
    checks = {c.path: c for c in await self_test(a, b.info)}
    assert not checks[DataPath.SHM].is_possible
    assert checks[DataPath.TCP].is_right


def broken_fetch(*_: object) -> None:
    raise TransferFailed("memory is not what it should be")


async def test_a_path_that_spoils_a_block_is_named_and_the_next_one_is_taken(
    a: MemPool, b: MemPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert b.path_to(a.info) is DataPath.SHM
    with monkeypatch.context() as fault:
        fault.setattr("memserve.transport.shm.SharedMemoryTransport.fetch", broken_fetch)
        checks = {c.path: c for c in await self_test(a, b.info)}
    assert "memory is not what it should be" in checks[DataPath.SHM].fault
    assert not checks[DataPath.SHM].is_right
    assert checks[DataPath.TCP].is_right
    assert a.path_to(b.info) is DataPath.TCP
    assert b.path_to(a.info) is DataPath.TCP
    await self_test(a, b.info)
    assert a.path_to(b.info) is DataPath.SHM


async def test_a_peer_that_does_not_answer_says_nothing_about_the_paths(a: MemPool, make_pool: MakePool) -> None:
    gone = make_pool("c")
    info = gone.info
    gone.close()
    checks = await self_test(a, info)
    assert [(c.answered, c.is_right) for c in checks] == [(False, False), (False, False)]
    assert is_idle(a)


async def test_another_life_is_not_meant(a: MemPool) -> None:
    with pytest.raises(InstanceUnavailable, match="is gone: this is a/"):
        await self_test(a, incarnation=1)

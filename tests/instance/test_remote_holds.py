"""What a peer holds lives as long as it says hello, and no longer; many threads share one pool."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from memserve.core.clock import ManualClock
from memserve.core.enums import Tier
from memserve.core.errors import InstanceUnavailable, PoolExhausted
from memserve.core.ids import Incarnation, InstanceId
from memserve.instance.mempool import MemPool
from memserve.instance.peer_links import PeerLinks
from memserve.wire.messages import AllocReply, AllocRequest, PeerInfo, StatsReply, StatsRequest
from tests.instance.conftest import BLOCK_BYTES, MakePool, eventually


def stranger(pool: MemPool) -> PeerInfo:
    return PeerInfo(
        instance=InstanceId("stranger"),
        incarnation=Incarnation(1),
        endpoint="tcp://127.0.0.1:9",
        identity=pool.info.identity,
    )


async def test_blocks_of_a_peer_stay_while_it_says_hello_and_go_when_it_stops(make_pool: MakePool) -> None:
    clock = ManualClock()
    pool = make_pool("host", clock=clock)
    me = stranger(pool)
    links = PeerLinks(lambda: me)
    peer = await links.connect(pool.info.endpoint)
    asked = AllocRequest(num_blocks=3, tier=Tier.DRAM, owner=me.instance, incarnation=me.incarnation, ttl_s=60)
    await links.call(peer, asked, AllocReply, deadline_s=5)
    links.mark_holding(peer)
    for _ in range(3):
        clock.advance(50)
        await links.refresh()
    assert pool.stats().tiers[0].num_reserved == 3
    clock.advance(61)
    eventually(lambda: pool.stats().tiers[0].num_reserved == 0)
    await links.close()


async def test_links_are_bounded_and_opened_again_when_needed(a: MemPool, b: MemPool) -> None:
    me = stranger(a)
    links = PeerLinks(lambda: me, max_links=1)
    for pool in (a, b, a):
        peer = await links.connect(pool.info.endpoint)
        await links.call(peer, StatsRequest(), StatsReply, deadline_s=5)
        assert "1 connections" in repr(links)
    await links.close()


async def test_a_successor_on_the_same_endpoint_is_not_taken_for_its_predecessor(a: MemPool) -> None:
    me = stranger(a)
    links = PeerLinks(lambda: me)
    earlier = PeerInfo(
        instance=a.info.instance, incarnation=Incarnation(1), endpoint=a.info.endpoint, identity=a.info.identity
    )
    with pytest.raises(InstanceUnavailable, match="is gone"):
        await links.call(earlier, StatsRequest(), StatsReply, deadline_s=5)
    await links.close()


def test_threads_and_a_peer_use_one_pool_at_once_and_its_books_balance(make_pool: MakePool, a: MemPool) -> None:
    pool = make_pool("shared", dram_bytes=64 * BLOCK_BYTES)
    peer = a.connect(pool.info.endpoint)

    def work(number: int) -> None:
        for turn in range(20):
            tokens = [number * 100 + turn % 5] * 8
            blocks = pool.alloc_mem(2)
            pool.write(blocks, bytes([number]) * (2 * BLOCK_BYTES))
            pool.insert(tokens, blocks)
            with pool.match(tokens) as match:
                assert set(pool.read(match.addresses)) <= {number}

    def send() -> None:
        source = a.alloc_mem(2)
        a.write(source, b"\xff" * (2 * BLOCK_BYTES))
        for turn in range(20):
            a.transfer_with_insert(peer, [10_000 + turn] * 8, source)

    with ThreadPoolExecutor(4) as threads:
        jobs = [threads.submit(work, number) for number in range(3)] + [threads.submit(send)]
    for job in jobs:
        assert job.exception() is None or isinstance(job.exception(), PoolExhausted)
    pool.local.check()
    assert pool.stats().num_leases == 0
    assert pool.stats().tiers[0].num_reserved == 0


def test_blocks_at_a_peer_that_came_back_elsewhere_are_given_back_there(make_pool: MakePool) -> None:
    a, earlier = make_pool("a"), make_pool("b")
    a.connect(earlier.info.endpoint)
    earlier.close()
    again = make_pool("b")
    blocks = a.alloc_mem(3, on=a.connect(again.info.endpoint))
    assert again.stats().tiers[0].num_reserved == 3
    a.free_mem(blocks)
    assert again.stats().tiers[0].num_reserved == 0

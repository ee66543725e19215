"""A pool that goes hands its cache on: the hottest first, to whoever has room; nothing breaks when nobody takes it."""

import asyncio

import pytest

from memserve.core.errors import InstanceUnavailable
from memserve.core.ids import Incarnation
from memserve.instance.mempool import MemPool
from memserve.rpc.channel import RpcClient
from memserve.wire.messages import HandOnReply, HandOnRequest, Heir, PeerMessage
from tests.instance.conftest import BLOCK_BYTES, BLOCK_SIZE, MakePool
from tests.instance.contents import PROMPT_BLOCKS, contents, prompt

PROMPT_TOKENS = PROMPT_BLOCKS * BLOCK_SIZE


def keep(pool: MemPool, number: int, *, namespace: bytes = b"") -> None:
    blocks = pool.alloc_mem(PROMPT_BLOCKS)
    pool.write(blocks, contents(number))
    pool.insert(prompt(number), blocks, namespace=namespace)


def holds(pool: MemPool, number: int, *, namespace: bytes = b"") -> bool:
    with pool.match(prompt(number), namespace=namespace) as match:
        return bool(match.num_tokens == PROMPT_TOKENS and pool.read(match.addresses) == contents(number))


def heir(pool: MemPool, *, num_prompts: int = 10) -> Heir:
    return Heir(peer=pool.info, max_tokens=num_prompts * PROMPT_TOKENS)


async def hand_on(pool: MemPool, *heirs: Heir, incarnation: int | None = None) -> HandOnReply:
    """Until it is done."""
    me = pool.info
    request = HandOnRequest(
        instance=me.instance, incarnation=Incarnation(incarnation or me.incarnation), heirs=tuple(heirs)
    )
    client: RpcClient[object] = RpcClient(me.endpoint, PeerMessage)
    try:
        async with asyncio.timeout(20):
            while True:
                reply = await client.call(request, deadline_s=5)
                assert isinstance(reply, HandOnReply)
                if reply.is_done:
                    return reply
                await asyncio.sleep(0.01)
    finally:
        await client.close()


async def test_all_that_is_cached_goes_over_whole_with_its_salt(a: MemPool, b: MemPool) -> None:
    keep(a, 1)
    keep(a, 2, namespace=b"tenant")
    reply = await hand_on(a, heir(b))
    assert (reply.num_prompts, reply.num_prompts_done, reply.num_failed) == (2, 2, 0)
    assert reply.num_tokens == 2 * PROMPT_TOKENS
    assert holds(b, 1)
    assert holds(b, 2, namespace=b"tenant")
    assert not holds(b, 2)
    assert holds(a, 1)
    assert all(pool.stats().num_leases == 0 for pool in (a, b))


async def test_what_the_heir_has_already_is_not_sent_again(a: MemPool, b: MemPool) -> None:
    keep(a, 1)
    keep(b, 1)
    reply = await hand_on(a, heir(b))
    assert (reply.num_prompts_done, reply.num_tokens, reply.num_failed) == (1, 0, 0)


async def test_the_latest_used_goes_first_when_there_is_not_room_for_all(make_pool: MakePool, b: MemPool) -> None:
    a = make_pool("a", dram_bytes=32 * BLOCK_BYTES)
    for number in range(4):
        keep(a, number)
    a.match(prompt(1)).release()
    reply = await hand_on(a, heir(b, num_prompts=1))
    assert [holds(b, number) for number in range(4)] == [False, True, False, False]
    assert (reply.num_prompts, reply.num_prompts_done, reply.num_failed) == (4, 4, 3)


async def test_prompts_go_to_another_heir_where_one_has_died(make_pool: MakePool, a: MemPool, b: MemPool) -> None:
    gone = make_pool("c")
    keep(a, 1)
    keep(a, 2)
    late = heir(gone)
    await asyncio.to_thread(gone.close)
    reply = await hand_on(a, late, heir(b))
    assert reply.num_failed == 0
    assert holds(b, 1)
    assert holds(b, 2)


async def test_without_heirs_or_without_a_cache_there_is_nothing_to_do(a: MemPool, b: MemPool) -> None:
    assert (await hand_on(b, heir(a))).num_prompts == 0
    keep(a, 1)
    assert (await hand_on(a)).num_failed == 1


async def test_another_life_is_not_meant(a: MemPool) -> None:
    with pytest.raises(InstanceUnavailable, match="is gone: this is a/"):
        await hand_on(a, incarnation=1)

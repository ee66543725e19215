"""A pool that grows and shrinks while it serves: what is cached, leased and mapped meanwhile."""

import msgspec
import numpy as np
import pytest

from memserve.core.enums import DataPath, Tier
from memserve.core.errors import ConfigError, InstanceUnavailable, PoolExhausted
from memserve.core.ids import Incarnation
from memserve.gateway.pool_control import RpcPools
from memserve.instance.mempool import MemPool
from memserve.wire.messages import BlockList
from tests.instance.conftest import BLOCK_BYTES, BLOCK_SIZE, MakePool


def tokens(number: int, num_blocks: int = 1) -> np.ndarray:
    return np.arange(num_blocks * BLOCK_SIZE, dtype=np.int32) + 1000 * number


def store(pool: MemPool, number: int, num_blocks: int = 1) -> BlockList:
    blocks = pool.alloc_mem(num_blocks)
    pool.write(blocks, bytes([number]) * BLOCK_BYTES * num_blocks)
    return pool.insert(tokens(number, num_blocks), blocks)


def dram(pool: MemPool) -> tuple[int, int, int]:
    """All blocks, free ones, cached ones."""
    (stats,) = [tier for tier in pool.stats().tiers if tier.tier is Tier.DRAM]
    pool.local.check()
    return stats.num_blocks, stats.num_free, stats.num_cached


def test_a_pool_that_grew_holds_more(a: MemPool) -> None:
    a.resize(20 * BLOCK_BYTES)
    assert dram(a) == (20, 20, 0)
    store(a, 7, num_blocks=20)
    with a.match(tokens(7, 20)) as found:
        assert a.read(found.addresses) == bytes([7]) * 20 * BLOCK_BYTES


def test_shrinking_evicts_what_is_least_wanted_and_keeps_the_bytes_of_the_rest(a: MemPool) -> None:
    for number in range(16):
        store(a, number)
    a.match(tokens(0)).release()
    a.resize(5 * BLOCK_BYTES)
    assert dram(a) == (5, 0, 5)
    kept = {number for number in range(16) if a.match(tokens(number)).num_tokens}
    assert kept == {0, 12, 13, 14, 15}
    for number in kept:
        with a.match(tokens(number)) as found:
            assert a.read(found.addresses) == bytes([number]) * BLOCK_BYTES


def test_what_is_leased_or_active_stays_and_the_refusal_tells_the_least_size(a: MemPool) -> None:
    store(a, 1, num_blocks=3)
    found = a.match(tokens(1, 3))
    active = a.alloc_mem(4)
    with pytest.raises(
        PoolExhausted, match=rf"4 are in use .* 3 leased and 0 pinned, 7 in the way; {7 * BLOCK_BYTES} bytes is"
    ):
        a.resize(6 * BLOCK_BYTES)
    assert dram(a)[0] == 16
    a.resize(7 * BLOCK_BYTES)
    assert dram(a) == (7, 0, 3)
    assert a.read(found.addresses) == bytes([1]) * 3 * BLOCK_BYTES
    found.release()
    a.free_mem(active)
    a.resize(BLOCK_BYTES)
    assert dram(a)[0] == 1


def test_a_pool_that_shrank_and_grew_again_is_as_good_as_before(a: MemPool) -> None:
    old = store(a, 3, num_blocks=16)
    a.resize(2 * BLOCK_BYTES)
    a.resize(18 * BLOCK_BYTES)
    store(a, 4, num_blocks=16)
    with a.match(tokens(4, 16)) as found:
        assert a.read(found.addresses) == bytes([4]) * 16 * BLOCK_BYTES
        assert not set(old.blocks) & set(found.addresses.blocks)


@pytest.mark.parametrize("size", [0, -1, BLOCK_BYTES - 1])
def test_a_size_that_holds_no_block_is_refused(a: MemPool, size: int) -> None:
    with pytest.raises(ConfigError, match=f"{size} bytes of DRAM hold no block of {BLOCK_BYTES} bytes"):
        a.resize(size)
    assert dram(a)[0] == 16


def test_more_than_the_host_has_is_refused_with_the_numbers(a: MemPool) -> None:
    with pytest.raises(ConfigError, match=r"has \d+ bytes free"):
        a.resize(1 << 50)
    assert dram(a) == (16, 16, 0)


def test_a_pool_without_dram_cannot_get_any(make_pool: MakePool) -> None:
    pool = make_pool("h", dram_bytes=0, hbm_bytes=4 * BLOCK_BYTES)
    with pytest.raises(ConfigError, match="no DRAM tier"):
        pool.resize(BLOCK_BYTES)


@pytest.mark.parametrize("path", [DataPath.SHM, DataPath.TCP])
def test_a_peer_reads_and_writes_blocks_that_came_after_it_had_mapped_the_memory(
    make_pool: MakePool, path: DataPath
) -> None:
    a, b = make_pool("a", paths=(path,)), make_pool("b", paths=(path,))
    info = a.connect(b.info.endpoint)
    for number, size in ((1, 16), (2, 32)):
        a.resize(size * BLOCK_BYTES)
        b.resize(size * BLOCK_BYTES)
        source = a.alloc_mem(16)
        a.write(source, bytes([number]) * 16 * BLOCK_BYTES)
        moved = a.transfer_with_insert(info, tokens(number, 16), source)
        assert b.read(moved) == bytes([number]) * 16 * BLOCK_BYTES


async def test_whoever_reaches_the_agent_may_resize_this_very_incarnation(a: MemPool) -> None:
    pools = RpcPools()
    reply = await pools.resize(a.info, num_bytes=32 * BLOCK_BYTES)
    assert (reply.block_bytes, reply.before.num_blocks, reply.after.num_blocks) == (BLOCK_BYTES, 16, 32)
    a.alloc_mem(30)
    with pytest.raises(PoolExhausted, match="30 in the way"):
        await pools.resize(a.info, num_bytes=BLOCK_BYTES)
    with pytest.raises(InstanceUnavailable, match="a/1 is gone"):
        await pools.resize(msgspec.structs.replace(a.info, incarnation=Incarnation(1)), num_bytes=BLOCK_BYTES)
    await pools.close()

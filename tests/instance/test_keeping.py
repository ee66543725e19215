"""Time to live, pins and their quota through MemPool and over the control channel."""

import numpy as np
import pytest

from memserve.config import Keeping
from memserve.core.clock import ManualClock
from memserve.core.errors import ConfigError, InvalidTokens, PoolExhausted, QuotaExceeded
from memserve.gateway.pool_control import RpcPools
from memserve.instance.mempool import MemPool
from tests.instance.conftest import BLOCK_SIZE, MakePool

PROMPT = np.arange(4 * BLOCK_SIZE, dtype=np.int32)


def store(pool: MemPool, *, ttl_s: float | None = None) -> None:
    pool.insert(PROMPT, pool.alloc_mem(4), ttl_s=ttl_s)


def found(pool: MemPool) -> int:
    with pool.match(PROMPT) as match:
        return match.num_tokens


def test_an_insert_lives_as_long_as_it_says_else_as_long_as_the_pool_says(make_pool: MakePool) -> None:
    clock = ManualClock()
    pool = make_pool("t", clock=clock, keep=Keeping(ttl_s=10.0))
    store(pool)
    clock.advance(9)
    assert found(pool) == 16
    store(pool, ttl_s=100)
    clock.advance(99)
    assert found(pool) == 16
    clock.advance(1)
    assert found(pool) == 0
    assert pool.stats().tiers[0].num_free == 16


def test_what_is_pinned_stays_while_the_pool_runs_full(make_pool: MakePool) -> None:
    pool = make_pool("p", keep=Keeping(pin_share=0.25))
    store(pool)
    pinned = pool.pins.pin(PROMPT)
    with pytest.raises(PoolExhausted, match=r"4 of those leased, pinned or on the move"):
        pool.alloc_mem(13)
    assert (found(pool), tuple(pool.pins)) == (16, (pinned,))
    assert pool.pins.unpin(pinned.pin)
    pool.alloc_mem(13)
    assert found(pool) < 16


@pytest.mark.parametrize("keep", [Keeping(ttl_s=0), Keeping(ttl_s=-1), Keeping(pin_share=1.5), Keeping(pin_share=-0.1)])
def test_settings_that_make_no_sense_are_refused(make_pool: MakePool, keep: Keeping) -> None:
    with pytest.raises(ConfigError, match=r"keep\.(ttl_s|pin_share) = "):
        make_pool("x", keep=keep)


async def test_pins_over_the_control_channel(make_pool: MakePool) -> None:
    pool, pools = make_pool("c", keep=Keeping(pin_share=0.25)), RpcPools()
    tokens = PROMPT.tobytes()
    assert (await pools.pin(pool.info, tokens=tokens, namespace=b"")).num_blocks == 0
    store(pool)
    pinned = await pools.pin(pool.info, tokens=tokens, namespace=b"")
    assert (pinned.num_pinned_tokens, await pools.pins(pool.info)) == (16, (pinned,))
    pool.insert(PROMPT + 1000, pool.alloc_mem(4))
    with pytest.raises(QuotaExceeded, match=r"makes 8 pinned ones of DRAM, where 4 of 16 may be"):
        await pools.pin(pool.info, tokens=(PROMPT + 1000).tobytes(), namespace=b"")
    for garbage in (b"", b"abc", tokens[:8], b"\xff" * 16):
        with pytest.raises(InvalidTokens):
            await pools.pin(pool.info, tokens=garbage, namespace=b"")
    assert await pools.unpin(pool.info, pin=pinned.pin)
    assert not await pools.unpin(pool.info, pin=pinned.pin)
    await pools.close()

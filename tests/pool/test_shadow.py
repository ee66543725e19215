"""What a ranking would have kept: the same as a pool that it rules, and a fair sample of it."""

from random import Random

import numpy as np
import pytest

from memserve.core.clock import ManualClock
from memserve.core.enums import Tier
from memserve.pool.eviction import eviction_policy
from memserve.pool.ledger import PoolLedger
from memserve.pool.ranking import LeastFrequentlyUsed, LeastRecentlyUsed, Ranking
from memserve.pool.shadow import PrefixSample, Shadow

WIDTH = 8


def as_bytes(prompt: range) -> bytes:
    return np.array(prompt, dtype="<i4").tobytes()


def prompts(random: Random, count: int) -> list[range]:
    """Of two to eight blocks of two tokens; some come back often, most never."""
    starts = [1000 * random.choice([random.randrange(12), 100 + number]) for number in range(count)]
    return [range(start, start + 4 * random.randrange(1, 5)) for start in starts]


def hits_of_pool(policy: str, asked: list[range], capacity: int) -> int:
    ledger = PoolLedger(
        block_size=2, capacity={Tier.DRAM: capacity}, clock=ManualClock(), eviction=eviction_policy(policy)
    )
    num_hits = 0
    for prompt in asked:
        match = ledger.match(prompt, owner="x")
        num_hits += len(match.blocks)
        lacking = len(prompt) // 2 - len(match.blocks)
        new = ledger.allocate(lacking, tier=Tier.DRAM, owner="x") if lacking else ()
        ledger.insert(prompt, match.blocks + new)
        ledger.release_owner("x")
        ledger.take_events()
    return num_hits


def hits_of_shadow(ranking: Ranking, asked: list[range], capacity: int, sample: PrefixSample) -> int:
    shadow, num_hits = Shadow(ranking), 0
    for prompt in asked:
        names = sample.names(as_bytes(prompt), width=WIDTH, namespace=b"")
        num_hits += sum(shadow.looked_up(names))
        shadow.stored(names, capacity=capacity)
    assert len(shadow) <= capacity
    return num_hits


@pytest.mark.parametrize(
    ("policy", "ranking", "tolerance"), [("lru", LeastRecentlyUsed(), 0.01), ("lfu", LeastFrequentlyUsed(), 0.1)]
)
def test_a_shadow_hits_what_a_pool_under_its_ranking_hits(policy: str, ranking: Ranking, tolerance: float) -> None:
    """A pool counts uses by runs of blocks, a shadow by blocks, which LFU shows."""
    asked = prompts(Random(3), 3000)
    real = hits_of_pool(policy, asked, 60)
    assert hits_of_shadow(ranking, asked, 60, PrefixSample()) == pytest.approx(real, rel=tolerance)


def test_half_of_the_blocks_stand_for_a_pool_of_half_the_size() -> None:
    asked, sample = prompts(Random(4), 6000), PrefixSample()
    whole = hits_of_shadow(LeastRecentlyUsed(), asked, 80, sample)
    sample.halve()
    assert hits_of_shadow(LeastRecentlyUsed(), asked, 40, sample) == pytest.approx(whole * sample.share, rel=0.15)


def test_a_block_is_in_the_sample_wherever_it_stands_and_named_by_its_whole_prefix() -> None:
    sample = PrefixSample()
    long, short = as_bytes(range(400)), as_bytes(range(200))
    other = as_bytes(range(2, 402))
    for _ in range(3):
        sample.halve()
    names = sample.names(long, width=WIDTH, namespace=b"")
    assert 0 < len(names) < 100
    assert set(sample.names(short, width=WIDTH, namespace=b"")) < set(names)
    assert not set(sample.names(other, width=WIDTH, namespace=b"")) & set(names)
    assert not set(sample.names(long, width=WIDTH, namespace=b"tenant")) & set(names)


def test_a_smaller_sample_keeps_the_names_that_are_still_in_it() -> None:
    sample, shadow = PrefixSample(), Shadow(LeastRecentlyUsed())
    prompt = as_bytes(range(2000))
    shadow.stored(sample.names(prompt, width=WIDTH, namespace=b""), capacity=None)
    assert len(shadow) == 1000
    sample.halve()
    shadow.keep(sample)
    left = sample.names(prompt, width=WIDTH, namespace=b"")
    assert len(shadow) == len(left) < 1000
    assert all(shadow.looked_up(left))

"""One pool without time, beside the offline optimum."""

from collections.abc import Sequence
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from traces import conversations, trace_of

from memserve.core.errors import ConfigError
from memserve.simulator.replay import BELADY, belady_hits, replay

PREFIXES = st.lists(st.sampled_from([(1,), (1, 2), (1, 2, 3), (1, 4), (5,), (5, 6)]), min_size=1, max_size=7)


def best_by_trying(prompts: Sequence[tuple[int, ...]], capacity: int) -> int:
    """Hits of the best of all ways to keep blocks."""
    states: dict[frozenset[int], int] = {frozenset(): 0}
    for prompt in prompts:
        after: dict[frozenset[int], int] = {}
        for held, hits in states.items():
            gained = hits + next((i for i, block in enumerate(prompt) if block not in held), len(prompt))
            known = sorted(held | set(prompt))
            for kept in combinations(known, min(capacity, len(known))):
                after[frozenset(kept)] = max(after.get(frozenset(kept), 0), gained)
        states = after
    return max(states.values())


@given(prompts=PREFIXES, capacity=st.integers(1, 4))
def test_no_way_to_keep_blocks_hits_more_often_than_belady(prompts: list[tuple[int, ...]], capacity: int) -> None:
    assert belady_hits(prompts, capacity) == best_by_trying(prompts, capacity)


@pytest.mark.parametrize("policy", ["lru", "lfu", "fifo", BELADY])
def test_an_ample_cache_hits_all_that_can_be_hit(policy: str) -> None:
    result = replay(trace_of(conversations(5, 4)), policy=policy, capacity_blocks=1000)
    assert result.hit_ratio == result.ideal_hit_ratio > 0


@pytest.mark.parametrize("policy", ["lru", "lfu", "fifo"])
@pytest.mark.parametrize("capacity", [1, 5, 20, 60])
def test_the_optimum_is_never_below_a_policy(policy: str, capacity: int) -> None:
    trace = trace_of(conversations(9, 5))
    optimum = replay(trace, policy=BELADY, capacity_blocks=capacity)
    assert replay(trace, policy=policy, capacity_blocks=capacity).hit_ratio <= optimum.hit_ratio


def test_a_cache_of_nothing_and_an_unknown_policy_are_refused() -> None:
    with pytest.raises(ConfigError, match="holds nothing"):
        replay(trace_of([(1,)]), policy="lru", capacity_blocks=0)
    with pytest.raises(ConfigError, match="no eviction policy"):
        replay(trace_of([(1,)]), policy="best", capacity_blocks=1)

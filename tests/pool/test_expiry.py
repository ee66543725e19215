"""Entries with a time to live, against a dict of deadlines; what a lease, a move and a second insert change."""

import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from memserve.config import Keeping
from memserve.core.clock import ManualClock
from memserve.core.enums import Tier
from memserve.core.errors import InvalidLease, PoolExhausted
from memserve.pool.events import BlocksEvicted
from memserve.pool.ledger import PoolLedger
from tests.pool.entries import found, store

BLOCK = 2
Prompt = tuple[int, ...]
prompts = st.builds(
    lambda text, length: tuple(ord(letter) for letter in text[:length] for _ in range(BLOCK)),
    st.sampled_from(["aaaaaa", "aaaabb", "aabbbb", "bbbbbb"]),
    st.integers(1, 6),
)


def make(default_s: float | None = None) -> tuple[PoolLedger, ManualClock]:
    clock = ManualClock()
    capacity = {Tier.HBM: 64, Tier.DRAM: 64}
    return PoolLedger(block_size=BLOCK, capacity=capacity, clock=clock, keeping=Keeping(ttl_s=default_s)), clock


class LifetimesAgainstADict(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.ledger, self.clock = make(default_s=10.0)
        self.deadlines: dict[Prompt, float] = {}

    @rule(prompt=prompts, ttl_s=st.sampled_from([None, 1.0, 3.0, 30.0, math.inf]))
    def insert(self, prompt: Prompt, ttl_s: float | None) -> None:
        store(self.ledger, prompt, ttl_s=ttl_s)
        self.sweep()
        deadline = self.clock.now() + (10.0 if ttl_s is None else ttl_s)
        for key in self.keys(prompt):
            self.deadlines[key] = max(deadline, self.deadlines.get(key, 0.0))

    @rule(prompt=prompts)
    def match(self, prompt: Prompt) -> None:
        self.sweep()
        there = [key in self.deadlines for key in self.keys(prompt)]
        assert found(self.ledger, prompt) == (there.index(False) if False in there else len(there))

    @rule(prompt=prompts)
    def delete(self, prompt: Prompt) -> None:
        found(self.ledger, prompt)
        self.sweep()
        below = {key for key in self.deadlines if key[: len(prompt)] == prompt}
        assert self.ledger.delete(prompt) == len(below)
        self.deadlines = {key: at for key, at in self.deadlines.items() if key not in below}

    @rule(number=st.integers(1, 4), up=st.booleans())
    def move(self, number: int, up: bool) -> None:
        source, target = (Tier.DRAM, Tier.HBM) if up else (Tier.HBM, Tier.DRAM)
        try:
            self.ledger.finish_swap(self.ledger.begin_swap(number, source=source, target=target))
        except PoolExhausted:
            return

    @rule(seconds=st.sampled_from([0.5, 1.0, 4.0, 15.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def the_pool_looks_at_the_clock(self) -> None:
        self.ledger.expire()
        self.sweep()
        assert sum(s.num_cached for s in self.ledger.stats()) == len(self.deadlines)

    @invariant()
    def it_adds_up(self) -> None:
        self.ledger.check()

    def sweep(self) -> None:
        self.deadlines = {key: at for key, at in self.deadlines.items() if at > self.clock.now()}

    @staticmethod
    def keys(prompt: Prompt) -> list[Prompt]:
        return [prompt[: end + BLOCK] for end in range(0, len(prompt), BLOCK)]


TestLifetimesAgainstADict = LifetimesAgainstADict.TestCase
TestLifetimesAgainstADict.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_what_has_expired_is_not_matched_and_its_blocks_are_free_again() -> None:
    ledger, clock = make()
    store(ledger, range(8), ttl_s=5.0)
    clock.advance(4.9)
    assert found(ledger, range(8)) == 4
    clock.advance(0.1)
    ledger.take_events()
    assert found(ledger, range(8)) == 0
    assert ledger.stats()[1].num_free == 64
    (event,) = ledger.take_events()
    assert isinstance(event, BlocksEvicted)
    assert event.num_blocks == 4


def test_a_lease_keeps_the_bytes_of_what_expires_but_nobody_finds_them_any_more() -> None:
    ledger, clock = make()
    store(ledger, range(8), ttl_s=5.0)
    lease = ledger.match(range(8), owner="reader").lease
    clock.advance(6)
    assert found(ledger, range(8)) == 0
    assert ledger.stats()[1].num_reserved == 4
    assert lease is not None
    ledger.release(lease)
    assert ledger.stats()[1].num_free == 64


def test_who_inserts_a_longer_prompt_prolongs_its_beginning() -> None:
    ledger, clock = make()
    store(ledger, range(4), ttl_s=5.0)
    store(ledger, range(8), ttl_s=20.0)
    clock.advance(10)
    assert found(ledger, range(8)) == 4


def test_who_inserts_a_beginning_again_leaves_the_rest_to_its_end() -> None:
    ledger, clock = make()
    store(ledger, range(8), ttl_s=5.0)
    store(ledger, range(4))
    clock.advance(100)
    assert found(ledger, range(8)) == 2


def test_an_insert_without_a_time_lives_as_long_as_the_pool_says() -> None:
    ledger, clock = make(default_s=3.0)
    store(ledger, range(4))
    store(ledger, range(100, 104), ttl_s=math.inf)
    clock.advance(3)
    assert (found(ledger, range(4)), found(ledger, range(100, 104))) == (0, 2)


@pytest.mark.parametrize("ttl_s", [0.0, -1.0, math.nan])
def test_a_time_to_live_that_is_none_changes_nothing(ttl_s: float) -> None:
    ledger, _ = make()
    blocks = ledger.allocate(1, tier=Tier.DRAM, owner="test")
    with pytest.raises(InvalidLease, match="give a positive number of seconds"):
        ledger.insert(range(2), blocks, ttl_s=ttl_s)
    ledger.free(blocks)
    ledger.check()

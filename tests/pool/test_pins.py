"""Pinned prefixes: eviction and time spare them, a quota bounds them, and what is deleted is gone all the same."""

import pytest

from memserve.config import Keeping
from memserve.core.clock import ManualClock
from memserve.core.enums import Tier
from memserve.core.errors import InvalidTokens, PoolExhausted, QuotaExceeded
from memserve.core.ids import PinId
from memserve.pool.ledger import PoolLedger
from tests.pool.entries import found, store

BLOCK = 2
NUM_BLOCKS = 16


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def ledger(clock: ManualClock) -> PoolLedger:
    capacity = {Tier.HBM: NUM_BLOCKS, Tier.DRAM: NUM_BLOCKS}
    return PoolLedger(block_size=BLOCK, capacity=capacity, clock=clock, keeping=Keeping(ttl_s=60.0, pin_share=0.5))


def prompt(number: int, num_blocks: int = 4) -> range:
    return range(1000 * number, 1000 * number + num_blocks * BLOCK)


def fill(ledger: PoolLedger) -> None:
    """More than the tier holds."""
    for number in range(100, 110):
        store(ledger, prompt(number))


def dram(ledger: PoolLedger) -> tuple[int, int]:
    """Pinned and leased blocks."""
    ledger.check()
    (stats,) = [tier for tier in ledger.stats() if tier.tier is Tier.DRAM]
    return stats.num_pinned, stats.num_leased


def test_eviction_spares_what_is_pinned_until_it_is_unpinned(ledger: PoolLedger) -> None:
    store(ledger, prompt(1))
    pinned = ledger.pins.pin(prompt(1))
    assert (pinned.num_tokens, pinned.num_pinned_tokens, pinned.num_blocks) == (8, 8, 4)
    fill(ledger)
    assert found(ledger, prompt(1)) == 4
    assert dram(ledger) == (4, 0)
    assert ledger.pins.unpin(pinned.pin)
    fill(ledger)
    assert found(ledger, prompt(1)) == 0
    assert not ledger.pins.unpin(pinned.pin)


def test_what_is_pinned_does_not_expire_and_lives_on_as_if_new_when_it_is_unpinned(
    ledger: PoolLedger, clock: ManualClock
) -> None:
    store(ledger, prompt(1))
    pinned = ledger.pins.pin(prompt(1, num_blocks=2))
    clock.advance(100)
    assert found(ledger, prompt(1)) == 2
    ledger.pins.unpin(pinned.pin)
    clock.advance(59)
    assert found(ledger, prompt(1)) == 2
    clock.advance(1)
    assert found(ledger, prompt(1)) == 0


def test_a_block_under_two_pins_is_spared_by_the_one_that_is_left(ledger: PoolLedger, clock: ManualClock) -> None:
    store(ledger, prompt(1))
    long, short = ledger.pins.pin(prompt(1)), ledger.pins.pin(prompt(1, num_blocks=2))
    assert dram(ledger) == (4, 0)
    ledger.pins.unpin(long.pin)
    clock.advance(100)
    fill(ledger)
    assert found(ledger, prompt(1)) == 2
    assert tuple(ledger.pins) == (short,)


def test_a_pin_covers_what_is_cached_of_its_tokens_and_more_when_it_is_repeated(ledger: PoolLedger) -> None:
    store(ledger, prompt(1, num_blocks=2))
    first = ledger.pins.pin(prompt(1))
    assert (first.num_tokens, first.num_pinned_tokens) == (8, 4)
    store(ledger, prompt(1))
    again = ledger.pins.pin([*prompt(1), 7])
    assert (again.pin, again.num_pinned_tokens) == (first.pin, 8)
    assert tuple(ledger.pins) == (again,)
    assert dram(ledger) == (4, 0)


def test_what_is_not_cached_is_not_pinned(ledger: PoolLedger) -> None:
    assert ledger.pins.pin(prompt(1)).num_blocks == 0
    assert tuple(ledger.pins) == ()


def test_a_pin_beyond_the_quota_is_refused_with_the_numbers_and_changes_nothing(ledger: PoolLedger) -> None:
    for number in (1, 2, 3):
        store(ledger, prompt(number))
    ledger.pins.pin(prompt(1))
    ledger.pins.pin(prompt(2))
    with pytest.raises(QuotaExceeded, match=r"of 4 blocks makes 12 pinned ones of DRAM, where 8 of 16 may be"):
        ledger.pins.pin(prompt(3))
    assert len([*ledger.pins]) == 2
    assert dram(ledger) == (8, 0)
    fill(ledger)
    assert found(ledger, prompt(3)) == 0


def test_pins_of_the_same_prefix_count_once(ledger: PoolLedger) -> None:
    store(ledger, prompt(1, num_blocks=8))
    for num_blocks in range(1, 9):
        ledger.pins.pin(prompt(1, num_blocks=num_blocks))
    assert dram(ledger) == (8, 0)


def test_what_is_deleted_under_a_pin_is_free_at_once(ledger: PoolLedger) -> None:
    store(ledger, prompt(1))
    pinned = ledger.pins.pin(prompt(1))
    assert ledger.delete(prompt(1, num_blocks=3)) == 2
    (left,) = ledger.pins
    assert (left.pin, left.num_blocks) == (pinned.pin, 2)
    assert dram(ledger) == (2, 0)
    assert ledger.stats()[1].num_free == NUM_BLOCKS - 2
    ledger.delete(prompt(1, num_blocks=1))
    assert ledger.pins.unpin(pinned.pin)
    assert ledger.stats()[1].num_free == NUM_BLOCKS
    ledger.check()


def test_a_lease_outlives_the_pin_of_the_same_blocks(ledger: PoolLedger) -> None:
    store(ledger, prompt(1))
    pinned = ledger.pins.pin(prompt(1))
    lease = ledger.match(prompt(1), owner="reader").lease
    assert dram(ledger) == (4, 4)
    ledger.pins.unpin(pinned.pin)
    fill(ledger)
    assert found(ledger, prompt(1)) == 4
    assert lease is not None
    ledger.release(lease)


def test_pinned_blocks_do_not_leave_their_tier(ledger: PoolLedger) -> None:
    store(ledger, prompt(1))
    ledger.pins.pin(prompt(1))
    with pytest.raises(PoolExhausted, match="0 are cached and not leased there"):
        ledger.begin_swap(1, source=Tier.DRAM, target=Tier.HBM)


def test_namespaces_keep_pins_of_the_same_tokens_apart(ledger: PoolLedger) -> None:
    store(ledger, prompt(1))
    assert ledger.pins.pin(prompt(1)).pin != ledger.pins.pin(prompt(1), namespace=b"tenant").pin


def test_less_than_a_block_cannot_be_pinned(ledger: PoolLedger) -> None:
    with pytest.raises(InvalidTokens, match="at least one whole block of 2 tokens"):
        ledger.pins.pin([1])
    assert not ledger.pins.unpin(PinId("unknown"))

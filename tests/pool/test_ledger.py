"""One pool's promises, one by one: what each call does, and what it refuses."""

import math

import numpy as np
import pytest

from memserve.core.clock import ManualClock
from memserve.core.enums import Tier
from memserve.core.errors import ConfigError, InvalidBlocks, InvalidLease, InvalidTokens, PoolExhausted
from memserve.core.ids import BlockId, LeaseId, block_index, block_tier, make_block_id
from memserve.pool.block import BlockState
from memserve.pool.ledger import Match, PoolLedger
from memserve.pool.radix_index import Insertion
from memserve.wire.messages import TierStats

BLOCK = 4


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def ledger(clock: ManualClock) -> PoolLedger:
    return PoolLedger(block_size=BLOCK, capacity={Tier.DRAM: 8}, clock=clock)


def prompt(first: int, num_blocks: int) -> range:
    """A prompt that shares no block with those of another `first`."""
    return range(first, first + num_blocks * BLOCK)


def cache(ledger: PoolLedger, tokens: range, tier: Tier = Tier.DRAM) -> tuple[BlockId, ...]:
    blocks = ledger.allocate(len(tokens) // BLOCK, tier=tier, owner="writer")
    ledger.insert(tokens, blocks)
    return blocks


def is_cached(ledger: PoolLedger, tokens: range) -> bool:
    match = ledger.match(tokens, owner="probe")
    ledger.release_owner("probe")
    return match.num_tokens == len(tokens)


def stats(ledger: PoolLedger, tier: Tier = Tier.DRAM) -> TierStats:
    return next(s for s in ledger.stats() if s.tier is tier)


# ---------------------------------------------------------------- allocate and free


@pytest.mark.parametrize("number", [0, -1, -(2**40)])
def test_fewer_than_one_block_cannot_be_allocated(ledger: PoolLedger, number: int) -> None:
    with pytest.raises(InvalidBlocks, match="at least 1"):
        ledger.allocate(number, tier=Tier.DRAM, owner="a")


def test_an_allocation_that_cannot_be_met_evicts_nothing(ledger: PoolLedger) -> None:
    cache(ledger, prompt(0, 3))
    ledger.allocate(2, tier=Tier.DRAM, owner="a")
    with pytest.raises(PoolExhausted, match=r"7 blocks of DRAM asked for: 3 are free, 3 cached, 0 of those leased"):
        ledger.allocate(7, tier=Tier.DRAM, owner="a")
    assert is_cached(ledger, prompt(0, 3))
    with pytest.raises(PoolExhausted):
        ledger.allocate(2**60, tier=Tier.DRAM, owner="a")


def test_a_tier_that_the_pool_lacks_is_exhausted(ledger: PoolLedger) -> None:
    with pytest.raises(PoolExhausted, match="1 blocks of DISK asked for"):
        ledger.allocate(1, tier=Tier.DISK, owner="a")


def test_a_freed_block_cannot_be_freed_again(ledger: PoolLedger) -> None:
    blocks = ledger.allocate(2, tier=Tier.DRAM, owner="a")
    ledger.free(blocks)
    with pytest.raises(InvalidBlocks, match="2 of 2 blocks are not active"):
        ledger.free(blocks)


def test_a_free_with_one_wrong_block_frees_none(ledger: PoolLedger) -> None:
    blocks = ledger.allocate(2, tier=Tier.DRAM, owner="a")
    (cached,) = cache(ledger, prompt(0, 1))
    for wrong in (cached, make_block_id(Tier.HBM, 0, 0), make_block_id(Tier.DRAM, 5, 0), BlockId(-1), BlockId(2**63)):
        with pytest.raises(InvalidBlocks):
            ledger.free([*blocks, wrong])
    with pytest.raises(InvalidBlocks, match="name each once"):
        ledger.free([*blocks, blocks[0]])
    ledger.free(blocks)


@pytest.mark.parametrize("ttl_s", [0, -1.0, math.nan])
def test_a_hold_needs_a_positive_time_to_live(ledger: PoolLedger, ttl_s: float) -> None:
    cache(ledger, prompt(0, 1))
    with pytest.raises(InvalidLease):
        ledger.allocate(1, tier=Tier.DRAM, owner="a", ttl_s=ttl_s)
    with pytest.raises(InvalidLease):
        ledger.match(prompt(0, 1), owner="a", ttl_s=ttl_s)
    with pytest.raises(InvalidLease):
        ledger.extend("a", ttl_s=ttl_s)
    assert (stats(ledger).num_free, ledger.num_leases) == (7, 0)


def test_negative_capacity_is_a_wrong_setting(clock: ManualClock) -> None:
    with pytest.raises(ConfigError):
        PoolLedger(block_size=BLOCK, capacity={Tier.DRAM: -1}, clock=clock)


# ---------------------------------------------------------------- insert


def test_repeating_an_insert_changes_nothing(ledger: PoolLedger) -> None:
    cache(ledger, prompt(0, 2))
    blocks = ledger.allocate(3, tier=Tier.DRAM, owner="a")
    assert ledger.insert(prompt(0, 3), blocks) == Insertion(num_new=1, duplicates=blocks[:2])
    before = (ledger.stats(), repr(ledger))
    assert ledger.insert(prompt(0, 3), blocks) == Insertion(num_new=0, duplicates=())
    assert (ledger.stats(), repr(ledger)) == before


def test_duplicates_are_freed_at_once(ledger: PoolLedger) -> None:
    first = cache(ledger, prompt(0, 2))
    second = ledger.allocate(2, tier=Tier.DRAM, owner="a")
    assert ledger.insert(prompt(0, 2), second).duplicates == second
    assert ledger.match(prompt(0, 2), owner="a").blocks == first
    assert stats(ledger).num_free == 6


def test_matched_blocks_may_lead_the_blocks_of_an_insert(ledger: PoolLedger) -> None:
    held = cache(ledger, prompt(0, 2))
    new = ledger.allocate(1, tier=Tier.DRAM, owner="a")
    assert ledger.insert(prompt(0, 3), held + new) == Insertion(num_new=1, duplicates=())


def test_only_active_blocks_can_be_inserted(ledger: PoolLedger) -> None:
    cached = cache(ledger, prompt(0, 1))
    freed = ledger.allocate(1, tier=Tier.DRAM, owner="a")
    ledger.free(freed)
    active = ledger.allocate(1, tier=Tier.DRAM, owner="a")
    for wrong in (cached, freed, (make_block_id(Tier.HBM, 0, 0),)):
        with pytest.raises(InvalidBlocks):
            ledger.insert(prompt(100, 2), active + wrong)
    with pytest.raises(InvalidBlocks, match="name each once"):
        ledger.insert(prompt(100, 2), active + active)
    assert not is_cached(ledger, prompt(100, 1))
    ledger.free(active)


def test_a_block_indexed_elsewhere_is_no_duplicate(ledger: PoolLedger) -> None:
    cache(ledger, prompt(0, 1))
    other = cache(ledger, prompt(100, 1))
    with pytest.raises(InvalidBlocks, match="indexed elsewhere"):
        ledger.insert(prompt(0, 1), other)


def test_more_blocks_than_tokens_are_refused(ledger: PoolLedger) -> None:
    blocks = ledger.allocate(2, tier=Tier.DRAM, owner="a")
    with pytest.raises(InvalidTokens, match="2 blocks of 4 tokens need 8 tokens, 7 are given"):
        ledger.insert(range(7), blocks)
    ledger.free(blocks)


def test_an_insert_of_no_blocks_is_empty(ledger: PoolLedger) -> None:
    assert ledger.insert([], ()) == Insertion(num_new=0, duplicates=())
    assert ledger.take_events() == ()


# ---------------------------------------------------------------- match and leases


def test_an_empty_match_takes_no_lease(ledger: PoolLedger) -> None:
    assert ledger.match(prompt(0, 2), owner="a") == Match()
    assert ledger.match([1, 2, 3], owner="a") == Match()
    assert ledger.num_leases == 0


def test_a_leased_prefix_survives_pressure_and_goes_after_the_release(ledger: PoolLedger) -> None:
    cache(ledger, prompt(0, 4))
    match = ledger.match(prompt(0, 2), owner="a")
    assert stats(ledger).num_leased == 2
    with pytest.raises(PoolExhausted, match="2 of those leased"):
        ledger.allocate(7, tier=Tier.DRAM, owner="b")
    ledger.free(ledger.allocate(6, tier=Tier.DRAM, owner="b"))
    assert is_cached(ledger, prompt(0, 2))
    assert not is_cached(ledger, prompt(0, 3))
    assert match.lease is not None
    ledger.release(match.lease)
    assert len(ledger.allocate(8, tier=Tier.DRAM, owner="b")) == 8


def test_a_lease_on_a_long_prompt_protects_every_block_before_its_end(ledger: PoolLedger) -> None:
    cache(ledger, prompt(0, 1))
    cache(ledger, prompt(0, 1))
    long = ledger.allocate(4, tier=Tier.DRAM, owner="w")
    ledger.insert(prompt(0, 4), long)
    ledger.match(prompt(0, 4), owner="a")
    with pytest.raises(PoolExhausted):
        ledger.allocate(5, tier=Tier.DRAM, owner="b")


def test_releasing_twice_or_something_unknown_is_harmless(ledger: PoolLedger) -> None:
    cache(ledger, prompt(0, 2))
    first, second = (ledger.match(prompt(0, 2), owner="a").lease for _ in range(2))
    assert first is not None
    assert second is not None
    ledger.release(first)
    ledger.release(first)
    ledger.release(LeaseId(999))
    assert ledger.num_leases == 1


def test_an_allocation_is_not_a_lease(ledger: PoolLedger) -> None:
    blocks = ledger.allocate(1, tier=Tier.DRAM, owner="a")
    for number in range(10):
        ledger.release(LeaseId(number))
    ledger.free(blocks)


def test_deleted_blocks_under_a_lease_are_reused_only_after_the_last_release(ledger: PoolLedger) -> None:
    blocks = cache(ledger, prompt(0, 4))
    leases = [ledger.match(prompt(0, 4), owner=owner).lease for owner in "ab"]
    assert ledger.delete(prompt(0, 2)) == 3
    assert ledger.match(prompt(0, 4), owner="c").blocks == blocks[:1]
    ledger.release_owner("c")
    assert [ledger.state(block) for block in blocks] == [BlockState.HISTORICAL] + [BlockState.DETACHED] * 3
    for lease, num_free in zip(leases, (4, 7), strict=True):
        assert lease is not None
        assert stats(ledger).num_free == 4
        ledger.release(lease)
        assert stats(ledger).num_free == num_free
    ledger.check()


def test_delete_needs_a_whole_block_and_counts_what_it_drops(ledger: PoolLedger) -> None:
    cache(ledger, prompt(0, 3))
    with pytest.raises(InvalidTokens):
        ledger.delete([1, 2])
    assert ledger.delete(prompt(100, 1)) == 0
    assert ledger.delete(prompt(0, 3), namespace=b"other") == 0
    assert ledger.delete(prompt(0, 2)) == 2
    assert ledger.delete(prompt(0, 2)) == 0


# ---------------------------------------------------------------- time and owners


def test_holds_end_with_their_deadline_unless_extended(ledger: PoolLedger, clock: ManualClock) -> None:
    cache(ledger, prompt(0, 2))
    ledger.match(prompt(0, 2), owner="a", ttl_s=10)
    ledger.allocate(1, tier=Tier.DRAM, owner="a", ttl_s=10)
    ledger.match(prompt(0, 2), owner="b", ttl_s=10)
    clock.advance(9)
    ledger.extend("a", ttl_s=10)
    assert ledger.expire() == 0
    clock.advance(1)
    assert ledger.expire() == 1
    assert (ledger.num_leases, stats(ledger).num_free) == (1, 5)
    clock.advance(9)
    assert ledger.expire() == 2
    assert (ledger.num_leases, stats(ledger).num_free) == (0, 6)


def test_an_extension_never_shortens_a_hold(ledger: PoolLedger, clock: ManualClock) -> None:
    cache(ledger, prompt(0, 1))
    ledger.match(prompt(0, 1), owner="a")
    ledger.match(prompt(0, 1), owner="a", ttl_s=100)
    ledger.extend("a", ttl_s=1)
    clock.advance(99)
    assert ledger.expire() == 0
    clock.advance(2)
    assert ledger.expire() == 1


def test_an_allocation_that_is_short_takes_what_has_expired(ledger: PoolLedger, clock: ManualClock) -> None:
    cache(ledger, prompt(0, 2))
    ledger.match(prompt(0, 2), owner="a", ttl_s=1)
    ledger.allocate(6, tier=Tier.DRAM, owner="dead", ttl_s=1)
    clock.advance(1)
    assert len(ledger.allocate(8, tier=Tier.DRAM, owner="b")) == 8


def test_releasing_an_owner_leaves_the_others_alone(ledger: PoolLedger) -> None:
    cache(ledger, prompt(0, 2))
    for owner in ("a", "b"):
        ledger.match(prompt(0, 2), owner=owner)
        ledger.allocate(2, tier=Tier.DRAM, owner=owner)
    ledger.release_owner("a")
    ledger.release_owner("a")
    ledger.release_owner("nobody")
    assert (ledger.num_leases, stats(ledger).num_free) == (1, 4)


# ---------------------------------------------------------------- swaps


@pytest.fixture
def tiered(clock: ManualClock) -> PoolLedger:
    return PoolLedger(block_size=BLOCK, capacity={Tier.HBM: 4, Tier.DRAM: 4}, clock=clock)


def test_a_finished_swap_renames_the_blocks_and_frees_the_sources(tiered: PoolLedger) -> None:
    blocks = cache(tiered, prompt(0, 3), Tier.HBM)
    swap = tiered.begin_swap(2, source=Tier.HBM, target=Tier.DRAM)
    assert {source for source, _ in swap.pairs} == set(blocks[1:])
    assert tiered.match(prompt(0, 3), owner="a").blocks == blocks
    tiered.release_owner("a")
    tiered.finish_swap(swap)
    targets = dict(swap.pairs)
    assert tiered.match(prompt(0, 3), owner="a").blocks == (blocks[0], targets[blocks[1]], targets[blocks[2]])
    assert stats(tiered, Tier.HBM).num_free == 3


def test_a_cancelled_swap_leaves_no_trace(tiered: PoolLedger) -> None:
    blocks = cache(tiered, prompt(0, 3), Tier.HBM)
    before = tiered.stats()
    swap = tiered.begin_swap(2, source=Tier.HBM, target=Tier.DRAM)
    tiered.cancel_swap(swap)
    tiered.cancel_swap(swap)
    assert tiered.stats() == before
    assert tiered.match(prompt(0, 3), owner="a").blocks == blocks
    with pytest.raises(InvalidBlocks, match="not open"):
        tiered.finish_swap(swap)


def test_a_reader_keeps_the_source_of_a_swap(tiered: PoolLedger) -> None:
    blocks = cache(tiered, prompt(0, 2), Tier.HBM)
    match = tiered.match(prompt(0, 2), owner="a")
    swap = tiered.begin_swap_in(match.blocks, target=Tier.DRAM)
    tiered.finish_swap(swap)
    assert [tiered.state(block) for block in blocks] == [BlockState.DETACHED] * 2
    tiered.release_owner("a")
    assert stats(tiered, Tier.HBM).num_free == 4
    tiered.check()


def test_the_sources_of_a_swap_are_not_evicted(tiered: PoolLedger) -> None:
    cache(tiered, prompt(0, 3), Tier.HBM)
    swap = tiered.begin_swap(1, source=Tier.HBM, target=Tier.DRAM)
    with pytest.raises(PoolExhausted, match="3 of those leased, pinned or on the move"):
        tiered.allocate(2, tier=Tier.HBM, owner="a")
    tiered.finish_swap(swap)
    assert len(tiered.allocate(4, tier=Tier.HBM, owner="a")) == 4


def test_a_block_deleted_on_the_move_stays_deleted(tiered: PoolLedger) -> None:
    cache(tiered, prompt(0, 2), Tier.HBM)
    swap = tiered.begin_swap(2, source=Tier.HBM, target=Tier.DRAM)
    assert tiered.delete(prompt(0, 1)) == 2
    assert stats(tiered, Tier.HBM).num_free == 2
    tiered.finish_swap(swap)
    assert [s.num_free for s in tiered.stats()] == [4, 4]


def test_leased_blocks_are_no_victims(tiered: PoolLedger) -> None:
    cache(tiered, prompt(0, 3), Tier.HBM)
    tiered.match(prompt(0, 2), owner="a")
    with pytest.raises(PoolExhausted, match="2 blocks to move out of HBM, 1 are cached and not leased"):
        tiered.begin_swap(2, source=Tier.HBM, target=Tier.DRAM)
    swap = tiered.begin_swap(1, source=Tier.HBM, target=Tier.DRAM)
    assert len(swap.pairs) == 1


def test_a_swap_without_room_in_the_target_changes_nothing(tiered: PoolLedger) -> None:
    cache(tiered, prompt(0, 3), Tier.HBM)
    tiered.allocate(4, tier=Tier.DRAM, owner="a")
    before = tiered.stats()
    with pytest.raises(PoolExhausted, match="1 blocks of DRAM asked for: 0 are free"):
        tiered.begin_swap(1, source=Tier.HBM, target=Tier.DRAM)
    assert tiered.stats() == before
    assert len(tiered.allocate(4, tier=Tier.HBM, owner="a")) == 4


def test_a_swap_refuses_wrong_numbers_and_blocks(tiered: PoolLedger) -> None:
    blocks = cache(tiered, prompt(0, 2), Tier.HBM)
    active = tiered.allocate(1, tier=Tier.HBM, owner="a")
    for number, target in ((0, Tier.DRAM), (-1, Tier.DRAM), (1, Tier.HBM)):
        with pytest.raises(InvalidBlocks):
            tiered.begin_swap(number, source=Tier.HBM, target=target)
    for wrong in ((), active, (*blocks, blocks[0]), (make_block_id(Tier.DRAM, 0, 0),)):
        with pytest.raises(InvalidBlocks):
            tiered.begin_swap_in(wrong, target=Tier.DRAM)
    with pytest.raises(InvalidBlocks):
        tiered.begin_swap_in(blocks, target=Tier.HBM)
    tiered.begin_swap_in(blocks[:1], target=Tier.DRAM)
    with pytest.raises(InvalidBlocks, match="on the move"):
        tiered.begin_swap_in(blocks[:1], target=Tier.DRAM)


def test_making_room_in_one_tier_drops_what_lies_below_in_another(tiered: PoolLedger) -> None:
    cache(tiered, prompt(0, 2), Tier.HBM)
    tiered.finish_swap(tiered.begin_swap(1, source=Tier.HBM, target=Tier.DRAM))
    blocks = tiered.allocate(4, tier=Tier.HBM, owner="a")
    assert {block_tier(block) for block in blocks} == {Tier.HBM}
    assert [s.num_free for s in tiered.stats()] == [0, 4]
    tiered.check()


# ---------------------------------------------------------------- the whole


def test_a_long_run_neither_leaks_blocks_nor_grows(ledger: PoolLedger) -> None:
    rng = np.random.default_rng(7)
    for turn in range(3000):
        tokens = rng.integers(0, 3, rng.integers(BLOCK, 6 * BLOCK), dtype=np.int32)
        match = ledger.match(tokens, owner="reader", ttl_s=5)
        number = len(tokens) // BLOCK - len(match.blocks)
        new = ledger.allocate(number, tier=Tier.DRAM, owner="writer") if number else ()
        ledger.insert(tokens, match.blocks + new)
        if match.lease is not None:
            ledger.release(match.lease)
        if turn % 3 == 0:
            ledger.delete(tokens[: BLOCK * 2])
    ledger.check()
    assert len(ledger.take_events()) <= 4096
    assert stats(ledger).num_reserved == 0
    assert sorted(map(block_index, ledger.allocate(8, tier=Tier.DRAM, owner="a"))) == list(range(8))

"""What the ledger keeps true about blocks on disk: readers read in place, failures lose nothing but themselves."""

import pytest

from memserve.core.clock import ManualClock
from memserve.core.enums import Tier
from memserve.core.ids import BlockId, block_index, block_tier
from memserve.pool.block import BlockState
from memserve.pool.ledger import PoolLedger

TOKENS = list(range(6))


@pytest.fixture
def ledger() -> PoolLedger:
    return PoolLedger(block_size=2, capacity={Tier.DRAM: 8, Tier.DISK: 8}, clock=ManualClock())


def cached(ledger: PoolLedger, tier: Tier = Tier.DRAM) -> tuple[BlockId, ...]:
    blocks = ledger.allocate(3, tier=tier, owner="test")
    ledger.insert(TOKENS, blocks)
    return blocks


def tiers(ledger: PoolLedger) -> list[Tier]:
    match = ledger.match(TOKENS, owner="look")
    ledger.release_owner("look")
    return [block_tier(block) for block in match.blocks]


def test_a_block_that_is_leased_on_its_way_to_disk_stays_where_it_is(ledger: PoolLedger) -> None:
    cached(ledger)
    swap = ledger.begin_swap(3, source=Tier.DRAM, target=Tier.DISK)
    lease = ledger.match(TOKENS[:2], owner="reader").lease
    assert ledger.finish_swap(swap) == 2
    assert tiers(ledger) == [Tier.DRAM, Tier.DISK, Tier.DISK]
    assert lease is not None
    ledger.check()


def test_what_could_not_be_copied_stays_and_the_rest_moves(ledger: PoolLedger) -> None:
    blocks = cached(ledger)
    swap = ledger.begin_swap(3, source=Tier.DRAM, target=Tier.DISK)
    assert ledger.finish_swap(swap, failed={blocks[1]}) == 2
    assert tiers(ledger) == [Tier.DISK, Tier.DRAM, Tier.DISK]
    ledger.check()


def test_a_block_that_is_lost_takes_what_continues_it_along(ledger: PoolLedger) -> None:
    blocks = cached(ledger, Tier.DISK)
    ledger.take_events()
    assert ledger.discard([blocks[1], blocks[2]]) == 2
    assert tiers(ledger) == [Tier.DISK]
    [event] = ledger.take_events()
    assert event.num_blocks == 2
    assert ledger.disk.take_left() == {block_index(blocks[1]), block_index(blocks[2])}


def test_a_copy_in_memory_replaces_the_one_on_disk(ledger: PoolLedger) -> None:
    old = cached(ledger, Tier.DISK)
    reader = ledger.match(TOKENS, owner="reader")
    new = ledger.allocate(3, tier=Tier.DRAM, owner="test")
    assert ledger.insert(TOKENS, new).duplicates == ()
    assert tiers(ledger) == [Tier.DRAM] * 3
    assert {ledger.state(block) for block in old} == {BlockState.DETACHED}, "a lease still reads them"
    assert reader.lease is not None
    ledger.release(reader.lease)
    assert {ledger.state(block) for block in old} == {BlockState.FREE}
    ledger.check()


def test_a_copy_on_disk_does_not_replace_the_one_in_memory(ledger: PoolLedger) -> None:
    cached(ledger)
    new = ledger.allocate(3, tier=Tier.DISK, owner="test")
    assert ledger.insert(TOKENS, new).duplicates == new
    assert tiers(ledger) == [Tier.DRAM] * 3


def test_a_copy_that_comes_while_the_one_on_disk_is_promoted_wins(ledger: PoolLedger) -> None:
    old = cached(ledger, Tier.DISK)
    swap = ledger.begin_swap_in(old, target=Tier.DRAM)
    new = ledger.allocate(3, tier=Tier.DRAM, owner="test")
    ledger.insert(TOKENS, new)
    assert ledger.disk.take_left() == set(), "the promotion still reads them"
    assert ledger.finish_swap(swap) == 0
    assert ledger.match(TOKENS, owner="look").blocks == new
    assert ledger.disk.take_left() == {block_index(block) for block in old}
    ledger.check()


def test_a_position_that_is_taken_again_is_not_told_to_be_erased(ledger: PoolLedger) -> None:
    ledger.free(ledger.allocate(8, tier=Tier.DISK, owner="test"))
    taken = ledger.allocate(3, tier=Tier.DISK, owner="test")
    assert ledger.disk.take_left() == set(range(8)) - {block_index(block) for block in taken}


def test_the_last_used_come_first_and_a_prefix_before_what_continues_it(ledger: PoolLedger) -> None:
    first = cached(ledger)
    other = ledger.allocate(1, tier=Tier.DRAM, owner="test")
    ledger.insert([9, 9], other)
    assert ledger.disk.wanted(Tier.DRAM) == (*other, *first)
    ledger.match(TOKENS, owner="look")
    assert ledger.disk.wanted(Tier.DRAM) == (*first, *other)


def test_how_much_is_in_use_beyond_a_share_is_told(ledger: PoolLedger) -> None:
    cached(ledger)
    assert [ledger.num_over(Tier.DRAM, share) for share in (0.0, 0.25, 0.5)] == [3, 1, -1]
    assert ledger.num_over(Tier.HBM, 0.5) == 0

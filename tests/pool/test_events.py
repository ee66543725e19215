"""The log of events is numbered without holes, bounded, and says so when it had to drop some."""

from memserve.core.clock import ManualClock
from memserve.core.enums import Tier
from memserve.pool.events import BlocksEvicted, BlocksMoved, BlocksStored, EventLog, EventsLost
from memserve.pool.ledger import PoolLedger
from memserve.pool.tokens import as_token_bytes


def stored(log: EventLog, tokens: bytes) -> None:
    log.stored(namespace=b"", tokens=tokens, num_blocks=1, tier=Tier.DRAM)


def test_taking_events_empties_the_log_and_keeps_the_numbers() -> None:
    log = EventLog()
    stored(log, b"1")
    stored(log, b"2")
    assert [event.seq for event in log.take()] == [1, 2]
    assert log.take() == ()
    stored(log, b"3")
    assert [event.seq for event in log.take()] == [3]


def test_a_full_log_is_dropped_and_leaves_a_marker() -> None:
    log = EventLog(max_events=3)
    for _ in range(4):
        stored(log, b"")
    stored(log, b"after")
    lost, after = log.take()
    assert lost == EventsLost(seq=4, num_events=4)
    assert (after.seq, after.tokens) == (5, b"after")


def test_the_marker_counts_what_is_dropped_over_and_over() -> None:
    log = EventLog(max_events=2)
    for _ in range(9):
        stored(log, b"")
    first, *rest = log.take()
    assert isinstance(first, EventsLost)
    assert first.num_events == first.seq == 9 - len(rest)
    stored(log, b"")
    assert [event.seq for event in log.take()] == [10]


def test_the_tokens_of_waiting_events_are_bounded_too() -> None:
    log = EventLog(max_bytes=10)
    stored(log, b"12345678")
    stored(log, b"123")
    assert log.take() == (EventsLost(seq=2, num_events=2),)


def test_a_pool_tells_what_it_stores_moves_and_drops() -> None:
    ledger = PoolLedger(block_size=2, capacity={Tier.HBM: 4, Tier.DRAM: 4}, clock=ManualClock())
    ledger.insert(range(6), ledger.allocate(3, tier=Tier.HBM, owner="a"), namespace=b"n")
    ledger.finish_swap(ledger.begin_swap(2, source=Tier.HBM, target=Tier.DRAM))
    ledger.delete(range(4), namespace=b"n")
    whole = bytes(as_token_bytes(range(6)))
    assert ledger.take_events() == (
        BlocksStored(seq=1, namespace=b"n", tokens=whole, num_blocks=3, tier=Tier.HBM),
        BlocksMoved(seq=2, namespace=b"n", tokens=whole, num_blocks=2, source=Tier.HBM, target=Tier.DRAM),
        BlocksEvicted(seq=3, namespace=b"n", tokens=whole[:16], num_blocks=2),
    )


def test_blocks_of_two_tiers_are_stored_in_two_facts() -> None:
    ledger = PoolLedger(block_size=1, capacity={Tier.HBM: 4, Tier.DRAM: 4}, clock=ManualClock())
    mixed = ledger.allocate(2, tier=Tier.DRAM, owner="a") + ledger.allocate(1, tier=Tier.HBM, owner="a")
    ledger.insert(range(3), mixed)
    first, second = ledger.take_events()
    assert isinstance(first, BlocksStored)
    assert isinstance(second, BlocksStored)
    assert (first.tier, first.num_blocks, len(first.tokens)) == (Tier.DRAM, 2, 8)
    assert (second.tier, second.num_blocks, len(second.tokens)) == (Tier.HBM, 1, 12)

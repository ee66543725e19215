"""The ends of prompts that go first: named while they stay, and dropped only if nobody has used them since."""

import pytest

from memserve.core.clock import ManualClock
from memserve.core.enums import Tier
from memserve.core.ids import BlockId
from memserve.pool.ledger import PoolLedger
from memserve.pool.tokens import as_token_bytes

OLD, NEW = [1] * 6, [2] * 6


@pytest.fixture
def ledger() -> PoolLedger:
    made = PoolLedger(block_size=2, capacity={Tier.DRAM: 16}, clock=ManualClock())
    store(made, OLD)
    store(made, NEW)
    return made


def store(ledger: PoolLedger, tokens: list[int], held: tuple[BlockId, ...] = ()) -> None:
    new = ledger.allocate(len(tokens) // 2 - len(held), tier=Tier.DRAM, owner="test")
    ledger.insert(tokens, (*held, *new))


def num_held(ledger: PoolLedger, tokens: list[int]) -> int:
    match = ledger.match(tokens, owner="look")
    ledger.release_owner("look")
    return len(match.blocks)


def test_the_least_wanted_end_is_named_and_nothing_changes(ledger: PoolLedger) -> None:
    run = ledger.cold.next_run(Tier.DRAM, max_blocks=2)
    assert run is not None
    assert (run.tokens, len(run.blocks)) == (bytes(as_token_bytes(OLD)), 2)
    assert ledger.cold.next_run(Tier.DRAM, max_blocks=2) == run
    assert (num_held(ledger, OLD), num_held(ledger, NEW)) == (3, 3)
    ledger.check()


def test_dropping_removes_the_end_and_tells_so(ledger: PoolLedger) -> None:
    run = ledger.cold.next_run(Tier.DRAM, max_blocks=2)
    assert run is not None
    ledger.take_events()
    assert ledger.cold.drop(run) == 2
    assert ledger.cold.drop(run) == 0
    [event] = ledger.take_events()
    assert event.num_blocks == 2
    assert (num_held(ledger, OLD), num_held(ledger, NEW)) == (1, 3)
    ledger.check()


def test_what_is_leased_meanwhile_is_not_dropped(ledger: PoolLedger) -> None:
    run = ledger.cold.next_run(Tier.DRAM, max_blocks=3)
    assert run is not None
    ledger.match(OLD, owner="reader")
    assert ledger.cold.drop(run) == 0


@pytest.mark.parametrize("continued", [[*OLD, 7, 7], [*OLD, *[7, 7] * 9]])
def test_what_is_continued_meanwhile_is_not_dropped(ledger: PoolLedger, continued: list[int]) -> None:
    run = ledger.cold.next_run(Tier.DRAM, max_blocks=3)
    assert run is not None
    match = ledger.match(OLD, owner="writer")
    store(ledger, continued, match.blocks)
    ledger.release_owner("writer")
    assert ledger.cold.drop(run) == 0
    assert num_held(ledger, continued) == len(continued) // 2


def test_what_was_stored_anew_meanwhile_is_not_dropped(ledger: PoolLedger) -> None:
    run = ledger.cold.next_run(Tier.DRAM, max_blocks=3)
    assert run is not None
    ledger.delete(OLD[:2])
    store(ledger, OLD)
    assert ledger.cold.drop(run) == 0


def test_nothing_is_named_where_all_is_leased(ledger: PoolLedger) -> None:
    ledger.match(OLD, owner="reader")
    ledger.match(NEW, owner="reader")
    assert ledger.cold.next_run(Tier.DRAM, max_blocks=1) is None
    assert ledger.cold.next_run(Tier.DISK, max_blocks=1) is None

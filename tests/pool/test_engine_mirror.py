"""The mirror of an engine's cache: what it announces, and that the pool's own index is another matter."""

import numpy as np
import pytest

from memserve.core.clock import ManualClock
from memserve.core.enums import Tier
from memserve.pool.events import BlocksEvicted, BlocksStored
from memserve.pool.ledger import PoolLedger
from tests.pool.entries import found, store

BLOCK = 2
PROMPT = list(range(8))


@pytest.fixture
def ledger() -> PoolLedger:
    made = PoolLedger(block_size=BLOCK, capacity={Tier.DRAM: 8}, clock=ManualClock())
    made.mirror.num_blocks = 16
    return made


def packed(tokens: list[int]) -> bytes:
    return np.array(tokens, dtype="<i4").tobytes()


def test_what_the_engine_holds_is_announced_once_and_apart_from_the_pools_own(ledger: PoolLedger) -> None:
    assert ledger.mirror.stored(PROMPT, [7, 3, 5]) == (7, 3, 5)
    assert ledger.mirror.stored(PROMPT, [7, 3, 5, 9]) == (9,)
    assert ledger.mirror.stored(PROMPT[:4], [1, 2]) == ()
    store(ledger, PROMPT)
    told = [
        (e.tokens, e.num_blocks, e.tier, e.is_mirrored) for e in ledger.take_events() if isinstance(e, BlocksStored)
    ]
    assert told == [
        (packed(PROMPT[:6]), 3, Tier.HBM, True),
        (packed(PROMPT), 1, Tier.HBM, True),
        (packed(PROMPT), 4, Tier.DRAM, False),
    ]
    ledger.check()


def test_a_block_that_is_gone_takes_what_continues_it_along_and_leaves_the_pools_copy(ledger: PoolLedger) -> None:
    store(ledger, PROMPT)
    ledger.mirror.stored(PROMPT, [7, 3, 5, 9])
    ledger.take_events()
    ledger.mirror.gone([5, 5, 1])
    (event,) = ledger.take_events()
    assert isinstance(event, BlocksEvicted)
    assert (event.tokens, event.num_blocks, event.is_mirrored) == (packed(PROMPT[:6]), 2, True)
    assert (ledger.mirror.num_tokens(PROMPT), found(ledger, PROMPT)) == (4, 4)
    assert ledger.mirror.stored(PROMPT, [7, 3, 5, 9]) == (5, 9)


def test_a_block_that_was_told_of_elsewhere_is_gone_from_there(ledger: PoolLedger) -> None:
    ledger.mirror.stored(PROMPT, [1, 2, 3, 4])
    ledger.mirror.stored([*PROMPT[:2], 50, 51], [1, 3])
    assert ledger.mirror.num_tokens(PROMPT) == 4
    assert ledger.mirror.num_tokens([*PROMPT[:2], 50, 51]) == 4
    assert len(ledger.mirror) == 3


def test_a_snapshot_tells_of_both_each_from_the_start(ledger: PoolLedger) -> None:
    store(ledger, PROMPT[:4])
    ledger.mirror.stored(PROMPT, [1, 2, 3, 4], namespace=b"tenant")
    snapshot = ledger.snapshot()
    whole = snapshot.entries(0, max_bytes=1 << 20)
    assert [(e.namespace, e.at, e.tokens, e.is_mirrored) for e in whole] == [
        (b"", 0, packed(PROMPT[:4]), False),
        (b"tenant", 0, packed(PROMPT), True),
    ]
    assert [*snapshot.prompts_by_use()] == [(b"", packed(PROMPT[:4]))]

"""Snapshots of the index, put together again from parts of any size, against what the pool itself matches."""

from array import array

from hypothesis import given, settings
from hypothesis import strategies as st

from memserve.core.clock import ManualClock
from memserve.core.enums import Tier
from memserve.pool.ledger import PoolLedger
from memserve.pool.snapshot import IndexSnapshot
from memserve.wire.events import IndexEntry

BLOCK = 2
WIDTH = BLOCK * 4

Key = tuple[bytes, bytes]


def new_ledger() -> PoolLedger:
    return PoolLedger(block_size=BLOCK, capacity={Tier.HBM: 64, Tier.DRAM: 64}, clock=ManualClock())


def insert(ledger: PoolLedger, tokens: list[int], namespace: bytes = b"", tier: Tier = Tier.DRAM) -> None:
    num_blocks = len(tokens) // BLOCK
    if num_blocks:
        ledger.insert(tokens, ledger.allocate(num_blocks, tier=tier, owner="test"), namespace=namespace)


def read(snapshot: IndexSnapshot, *, max_bytes: int) -> list[tuple[IndexEntry, ...]]:
    parts, position = [], 0
    while position < len(snapshot):
        parts.append(snapshot.entries(position, max_bytes=max_bytes))
        position += len(parts[-1])
    return parts


def prefixes(parts: list[tuple[IndexEntry, ...]]) -> set[Key]:
    found: set[Key] = set()
    for part in parts:
        prompt = b""
        for entry in part:
            prompt = prompt[: entry.at] + entry.tokens
            found |= {(entry.namespace, prompt[:end]) for end in range(WIDTH, len(prompt) + 1, WIDTH)}
    return found


prompts = st.lists(st.integers(0, 1), max_size=10)


@settings(deadline=None)
@given(
    held=st.lists(st.tuples(prompts, st.sampled_from([b"", b"tenant"]), st.sampled_from([Tier.HBM, Tier.DRAM]))),
    max_bytes=st.sampled_from([1, 3 * WIDTH, 10_000]),
)
def test_the_parts_together_name_exactly_what_is_indexed(
    held: list[tuple[list[int], bytes, Tier]], max_bytes: int
) -> None:
    ledger, expected = new_ledger(), set[Key]()
    for tokens, namespace, tier in held[:8]:
        insert(ledger, tokens, namespace, tier)
        data = array("i", tokens).tobytes()
        expected |= {(namespace, data[:end]) for end in range(WIDTH, len(data) + 1, WIDTH)}
    assert prefixes(read(ledger.snapshot(), max_bytes=max_bytes)) == expected


def test_a_snapshot_does_not_change_with_the_index() -> None:
    ledger = new_ledger()
    insert(ledger, [1, 1, 2, 2])
    snapshot = ledger.snapshot()
    before = read(snapshot, max_bytes=1000)
    insert(ledger, [1, 1, 2, 2, 3, 3])
    insert(ledger, [1, 1, 9, 9])
    ledger.delete([1, 1])
    assert read(snapshot, max_bytes=1000) == before


def test_a_snapshot_names_the_last_event_that_it_contains() -> None:
    ledger = new_ledger()
    insert(ledger, [1, 1])
    insert(ledger, [2, 2])
    assert ledger.snapshot().seq == ledger.take_events()[-1].seq == ledger.snapshot().seq


def test_the_tiers_of_a_run_are_told_in_order() -> None:
    ledger = new_ledger()
    blocks = [ledger.allocate(number, tier=tier, owner="test") for number, tier in ((2, Tier.HBM), (1, Tier.DRAM))]
    ledger.insert([0] * 3 * BLOCK, [*blocks[0], *blocks[1]])
    ((entry,),) = read(ledger.snapshot(), max_bytes=1000)
    assert [(run.tier, run.num_blocks) for run in entry.tiers] == [(Tier.HBM, 2), (Tier.DRAM, 1)]


def test_no_part_is_much_larger_than_asked_for() -> None:
    ledger = new_ledger()
    for number in range(20):
        insert(ledger, [1, 1, number, number])
    parts = read(ledger.snapshot(), max_bytes=4 * WIDTH)
    sizes = [sum(len(entry.tokens) for entry in part) for part in parts]
    assert max(sizes) <= 4 * WIDTH
    assert all(first.at == 0 for first, *_ in parts)

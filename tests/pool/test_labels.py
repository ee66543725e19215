"""Prompts are found again from the labels of their blocks, in whatever order those are read."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from memserve.core.clock import ManualClock
from memserve.core.enums import Tier
from memserve.pool.labels import MAX_NAMESPACE_BYTES, label_of, max_label_bytes, stored_runs
from memserve.pool.ledger import PoolLedger

BLOCK_SIZE = 2
WIDTH = BLOCK_SIZE * 4


def blocks_of(text: str) -> bytes:
    """One block for each letter."""
    return b"".join(ord(letter).to_bytes(4, "little") * BLOCK_SIZE for letter in text)


def prefixes(*texts: str, namespace: bytes = b"") -> list[tuple[bytes, bytes]]:
    """Every prefix that the prompts have, once."""
    return [
        (namespace, blocks_of(text)) for text in sorted({text[: n + 1] for text in texts for n in range(len(text))})
    ]


def restored(found: list[tuple[bytes, bytes]]) -> PoolLedger:
    """A ledger that was given the labels of these prefixes, slot by slot."""
    labels = [(slot, label_of(name, tokens, block_token_bytes=WIDTH)) for slot, (name, tokens) in enumerate(found)]
    ledger = PoolLedger(block_size=BLOCK_SIZE, capacity={Tier.DRAM: 1, Tier.DISK: len(found) + 3}, clock=ManualClock())
    ledger.disk.restore(labels)
    ledger.check()
    return ledger


def num_matched(ledger: PoolLedger, text: str, namespace: bytes = b"") -> int:
    match = ledger.match(blocks_of(text), owner="test", namespace=namespace)
    return len(match.blocks)


@given(
    texts=st.lists(st.text("ab", min_size=1, max_size=6), max_size=5),
    lost=st.sets(st.integers(0, 40)),
    seed=st.integers(0, 99),
)
def test_exactly_what_has_its_whole_prefix_is_found(texts: list[str], lost: set[int], seed: int) -> None:
    found = [prefix for number, prefix in enumerate(prefixes(*texts)) if number not in lost]
    Random(seed).shuffle(found)
    there = {tokens for _, tokens in found}
    ledger = restored(found)
    for text in texts:
        ends = (n for n in range(len(text)) if blocks_of(text[: n + 1]) not in there)
        assert num_matched(ledger, text) == next(ends, len(text))


def test_what_cannot_be_placed_is_told_to_be_erased() -> None:
    found = [*prefixes("abc"), (b"", blocks_of("xyz"))]
    ledger = restored(found)
    assert 3 in ledger.disk.take_left()
    assert ledger.disk.take_left() == set()
    [_, disk] = ledger.stats()
    assert (disk.tier, disk.num_cached, disk.num_free) == (Tier.DISK, 3, 4)


def test_namespaces_stay_apart() -> None:
    ledger = restored([*prefixes("ab", namespace=b"one"), *prefixes("abc", namespace=b"two")])
    assert [num_matched(ledger, "abc", name) for name in (b"", b"one", b"two")] == [0, 2, 3]


def test_what_is_restored_is_announced_so_that_trees_know_it() -> None:
    ledger = restored(prefixes("abc", "abd"))
    stored = ledger.take_events()
    assert sum(event.num_blocks for event in stored) == 4
    assert {event.tier for event in stored} == {Tier.DISK}


def test_garbage_and_doubles_are_left_out() -> None:
    label = label_of(b"", blocks_of("a"), block_token_bytes=WIDTH)
    short = label_of(b"", blocks_of("a"), block_token_bytes=4)
    runs = list(stored_runs([(0, b"garbage"), (1, label), (2, label), (3, short), (4, b"")], block_token_bytes=WIDTH))
    assert [run.slots for run in runs] == [(1,)]


def test_the_longest_label_has_its_place_and_a_longer_namespace_gets_none() -> None:
    tokens = bytes(1024 * 4)
    label = label_of(bytes(MAX_NAMESPACE_BYTES), tokens, block_token_bytes=len(tokens))
    assert 0 < len(label) <= max_label_bytes(1024)
    assert label_of(bytes(MAX_NAMESPACE_BYTES + 1), tokens, block_token_bytes=len(tokens)) == b""

"""In which order a full pool lets go, by policy; and that the order is kept cheaply."""

from collections.abc import Callable, Sequence
from random import Random

import pytest

from memserve.core.clock import ManualClock
from memserve.core.enums import Tier
from memserve.core.errors import ConfigError
from memserve.pool.eviction import eviction_policy
from memserve.pool.eviction_queue import EvictionQueue
from memserve.pool.ledger import PoolLedger
from memserve.pool.radix_node import Node, Root

A, B, C = range(8), range(100, 108), range(200, 208)


def full_pool(policy: str) -> PoolLedger:
    """Room for three prompts of two blocks; A, B and C were inserted in this order."""
    ledger = PoolLedger(block_size=4, capacity={Tier.DRAM: 6}, clock=ManualClock(), eviction=eviction_policy(policy))
    for tokens in (A, B, C):
        ledger.insert(tokens, ledger.allocate(2, tier=Tier.DRAM, owner="writer"))
    return ledger


def use(ledger: PoolLedger, tokens: range) -> int:
    num_tokens = ledger.match(tokens, owner="reader").num_tokens
    ledger.release_owner("reader")
    return num_tokens


def order_of_eviction(ledger: PoolLedger) -> list[int]:
    """First token of the prompts, in the order in which they lose their last block."""
    order = []
    for _ in range(6):
        ledger.take_events()
        ledger.allocate(1, tier=Tier.DRAM, owner="writer")
        (event,) = ledger.take_events()
        order.append(int.from_bytes(event.tokens[:4], "little"))
    return order[1::2]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("lru", [100, 200, 0]), ("fifo", [0, 100, 200]), ("lfu", [200, 100, 0])],
)
def test_each_policy_has_its_order(policy: str, expected: list[int]) -> None:
    ledger = full_pool(policy)
    for tokens in (B, B, A, C, A, A) if policy == "lfu" else (C, A):
        use(ledger, tokens)
    if policy == "lru":
        use(ledger, C)
        use(ledger, A)
    assert order_of_eviction(ledger) == expected


@pytest.mark.parametrize("policy", ["lru", "fifo", "lfu", "adaptive"])
def test_the_end_of_a_prompt_goes_before_its_beginning(policy: str) -> None:
    ledger = full_pool(policy)
    ledger.allocate(1, tier=Tier.DRAM, owner="writer")
    assert [use(ledger, tokens) for tokens in (A, B, C)] == [4, 8, 8]


@pytest.mark.parametrize("policy", ["lru", "fifo", "lfu", "adaptive"])
def test_a_shared_prefix_goes_after_all_that_continues_it(policy: str) -> None:
    ledger = PoolLedger(block_size=1, capacity={Tier.DRAM: 22}, clock=ManualClock(), eviction=eviction_policy(policy))
    for branch in range(2):
        tokens = [*range(2), *range(50 * branch, 50 * branch + 10)]
        match = ledger.match(tokens, owner="writer")
        new = ledger.allocate(12 - len(match.blocks), tier=Tier.DRAM, owner="writer")
        ledger.insert(tokens, match.blocks + new)
        ledger.release_owner("writer")
    ledger.allocate(20, tier=Tier.DRAM, owner="writer")
    assert ledger.match(range(2), owner="reader").num_tokens == 2


def test_an_unknown_policy_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match='no eviction policy "mru"; choose one of lru, fifo, lfu, adaptive'):
        eviction_policy("mru")


def test_entries_of_removed_nodes_do_not_pile_up() -> None:
    queue = EvictionQueue(eviction_policy("lru"))
    root = Root(b"")
    for _ in range(10_000):
        node = Node(parent=root, run=b"", blocks=[])
        queue.used(node)
        queue.add(node, Tier.DRAM)
        node.parent = None
    assert int(repr(queue).rpartition(" in DRAM")[0].rpartition(" ")[2]) < 1000
    assert queue.pop(Tier.DRAM) is None


def test_entries_of_nodes_that_come_and_go_do_not_pile_up_under_several_rankings() -> None:
    queue = EvictionQueue(eviction_policy("adaptive"))
    node = Node(parent=Root(b""), run=b"", blocks=[])
    for _ in range(10_000):
        queue.used(node)
        queue.add(node, Tier.DRAM)
        assert queue.pop(Tier.DRAM) is node
    queue.add(node, Tier.DRAM)
    assert int(repr(queue).rpartition(" in DRAM")[0].rpartition(" ")[2]) < 1000


def played(policy: str, prompts: Sequence[Sequence[int]], *, capacity: int = 200) -> int:
    """Tokens hit when these prompts, of blocks of one token, go through a pool."""
    ledger = PoolLedger(
        block_size=1, capacity={Tier.DRAM: capacity}, clock=ManualClock(), eviction=eviction_policy(policy)
    )
    num_hits = 0
    for tokens in prompts:
        match = ledger.match(tokens, owner="player")
        num_hits += match.num_tokens
        lacking = len(tokens) - match.num_tokens
        new = ledger.allocate(lacking, tier=Tier.DRAM, owner="player") if lacking else ()
        ledger.insert(tokens, match.blocks + new)
        ledger.release_owner("player")
        ledger.take_events()
    ledger.check()
    return num_hits


def old_favourites(random: Random, count: int) -> list[range]:
    """Half of the prompts are among 40 that come again and again, the others never do: LFU's world."""
    favourite = [random.randrange(40) if random.random() < 0.5 else 1000 + number for number in range(count)]
    return [range(10 * prompt, 10 * prompt + 4) for prompt in favourite]


def new_favourites(random: Random, count: int) -> list[range]:
    """Every 200 prompts, 35 others become the only ones: LRU's world."""
    favourite = [100_000 * (1 + number // 200) + random.randrange(35) for number in range(count)]
    return [range(10 * prompt, 10 * prompt + 4) for prompt in favourite]


def test_adaptive_beats_lru_and_lfu_when_habits_change_half_way() -> None:
    random = Random(1)
    prompts = old_favourites(random, 1500) + new_favourites(random, 1500)
    hits = {policy: played(policy, prompts) for policy in ("lru", "lfu", "adaptive")}
    assert hits["adaptive"] > 1.02 * max(hits["lru"], hits["lfu"])


@pytest.mark.parametrize(("world", "expert"), [(old_favourites, "lfu"), (new_favourites, "lru")])
def test_adaptive_comes_near_the_better_expert_while_habits_last(
    world: Callable[[Random, int], list[range]], expert: str
) -> None:
    prompts = world(Random(2), 8000)
    assert played("adaptive", prompts) >= 0.98 * played(expert, prompts)


def rare_favourites(random: Random, count: int) -> list[range]:
    """Every fifth prompt is one of 24, which a pool that fills up many times between two of them has to remember."""
    favourite = [random.randrange(24) if number % 5 == 0 else 1000 + number for number in range(count)]
    return [range(10 * prompt, 10 * prompt + 4) for prompt in favourite]


def test_adaptive_sees_the_worth_of_what_comes_back_after_many_turnovers() -> None:
    prompts = rare_favourites(Random(5), 4000)
    hits = {policy: played(policy, prompts, capacity=150) for policy in ("lru", "lfu", "adaptive")}
    assert hits["lfu"] > 1.5 * hits["lru"]
    assert hits["adaptive"] >= 0.98 * hits["lfu"]


def test_adaptive_evicts_the_same_blocks_when_the_same_calls_come_again() -> None:
    prompts = old_favourites(Random(3), 500)
    assert played("adaptive", prompts) == played("adaptive", prompts)

"""The prompt tree against a plain list of who holds which prompt until when."""

from array import array

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from memserve.core.clock import ManualClock
from memserve.core.enums import Tier
from memserve.core.ids import InstanceId
from memserve.scheduler.prompt_tree import ANNOUNCED_S, PromptTree
from memserve.scheduler.slots import Slots

BLOCK = 2
TTL_S = 10.0
A, B = InstanceId("a"), InstanceId("b")


def prompt(*tokens: int) -> bytes:
    return array("i", tokens).tobytes()


def new_tree(max_blocks: int = 1000, clock: ManualClock | None = None) -> PromptTree:
    clock = clock or ManualClock()
    return PromptTree(block_size=BLOCK, clock=clock, slots=Slots(), ttl_s=TTL_S, max_blocks=max_blocks)


def test_one_walk_tells_how_much_each_instance_holds() -> None:
    tree = new_tree()
    tree.insert(A, prompt(1, 2, 3, 4, 5, 6, 7, 8))
    tree.insert(B, prompt(1, 2, 3, 4, 9, 9))
    assert tree.match(prompt(1, 2, 3, 4, 5, 6, 0, 0)) == {A: 6, B: 4}


def test_a_partial_block_at_the_end_does_not_count() -> None:
    tree = new_tree()
    tree.insert(A, prompt(1, 2, 3))
    assert tree.match(prompt(1, 2, 3)) == {A: 2}


def test_instances_that_hold_nothing_are_left_out() -> None:
    tree = new_tree()
    tree.insert(A, prompt(1, 2))
    assert tree.match(prompt(2, 2)) == {}


def test_a_longer_prompt_of_one_instance_is_not_credited_to_another() -> None:
    tree = new_tree()
    tree.insert(A, prompt(1, 2, 3, 4))
    tree.insert(B, prompt(1, 2))
    assert tree.match(prompt(1, 2, 3, 4)) == {A: 4, B: 2}


def test_namespaces_share_nothing() -> None:
    tree = new_tree()
    tree.insert(A, prompt(1, 2), b"tenant")
    assert tree.match(prompt(1, 2)) == {}
    assert tree.match(prompt(1, 2), b"tenant") == {A: 2}


def test_an_entry_that_nobody_confirmed_in_time_is_gone() -> None:
    clock = ManualClock()
    tree = new_tree(clock=clock)
    tree.insert(A, prompt(1, 2, 3, 4))
    clock.advance(TTL_S / 2)
    tree.insert(A, prompt(1, 2))
    tree.insert(B, prompt(1, 2))
    clock.advance(TTL_S / 2)
    assert tree.match(prompt(1, 2, 3, 4)) == {A: 2, B: 2}


def test_an_expired_prompt_frees_its_room() -> None:
    clock = ManualClock()
    tree = new_tree(clock=clock)
    tree.insert(A, prompt(1, 2, 3, 4))
    clock.advance(TTL_S)
    assert tree.match(prompt(1, 2)) == {}
    assert tree.stats().num_blocks == 0


def test_losing_a_block_loses_what_follows_and_keeps_what_is_before() -> None:
    tree = new_tree()
    tree.insert(A, prompt(1, 2, 3, 4, 5, 6))
    tree.insert(B, prompt(1, 2, 3, 4, 5, 6))
    tree.remove(A, prompt(1, 2, 3, 4))
    assert tree.match(prompt(1, 2, 3, 4, 5, 6)) == {A: 2, B: 6}


def test_forgetting_an_instance_leaves_the_others() -> None:
    tree = new_tree()
    tree.insert(A, prompt(1, 2, 3, 4))
    tree.insert(B, prompt(1, 2))
    tree.forget(A)
    assert tree.match(prompt(1, 2, 3, 4)) == {B: 2}
    assert tree.stats().num_blocks == 1
    assert tree.stats().num_instances == 1


def test_an_instance_that_comes_after_a_forgotten_one_inherits_nothing() -> None:
    tree = new_tree()
    tree.insert(A, prompt(1, 2))
    tree.insert(B, prompt(1, 2))
    assert tree.match(prompt(1, 2)) == {A: 2, B: 2}
    tree.forget(A)
    tree.insert(InstanceId("c"), prompt(5, 6))
    assert tree.match(prompt(1, 2)) == {B: 2}
    tree.insert(InstanceId("c"), prompt(1, 2))
    assert tree.match(prompt(1, 2)) == {B: 2, InstanceId("c"): 2}


def test_the_least_recently_used_prompt_goes_first_when_the_tree_is_full() -> None:
    tree = new_tree(max_blocks=3)
    tree.insert(A, prompt(1, 1))
    tree.insert(A, prompt(2, 2))
    tree.insert(A, prompt(3, 3))
    tree.match(prompt(1, 1))
    tree.insert(A, prompt(4, 4))
    assert tree.match(prompt(2, 2)) == {}
    assert tree.match(prompt(1, 1)) == {A: 2}


def test_a_shared_beginning_outlives_the_prompts_that_grew_from_it() -> None:
    tree = new_tree(max_blocks=3)
    for end in range(10, 20):
        tree.insert(A, prompt(1, 1, end, end))
    assert tree.match(prompt(1, 1)) == {A: 2}
    assert tree.stats().num_blocks <= 3


def test_an_emptied_namespace_leaves_nothing_behind_and_can_be_filled_again() -> None:
    tree = new_tree()
    tree.insert(A, prompt(1, 2), b"tenant")
    tree.forget(A)
    assert tree.stats().num_namespaces == 0
    tree.insert(B, prompt(1, 2), b"tenant")
    assert tree.match(prompt(1, 2), b"tenant") == {B: 2}


def test_an_answer_that_grows_block_by_block_makes_no_chain_of_nodes() -> None:
    tree = new_tree()
    for number in range(2, 65, 2):
        tree.insert(A, prompt(*range(number)))
    assert tree.stats().num_blocks == 32
    assert tree.stats().num_nodes == 1
    assert tree.match(prompt(*range(64))) == {A: 64}


def test_what_is_told_of_one_instance_only_does_not_grow_on_another() -> None:
    tree = new_tree()
    tree.insert(A, prompt(1, 2))
    tree.insert(B, prompt(1, 2))
    tree.insert(A, prompt(1, 2, 3, 4))
    assert tree.match(prompt(1, 2, 3, 4)) == {A: 4, B: 2}


def test_blocks_are_in_dram_until_told_otherwise_each_instance_for_itself() -> None:
    tree = new_tree()
    for instance in (A, B):
        tree.insert(instance, prompt(1, 2, 3, 4, 5, 6))
    assert tree.put(A, prompt(1, 2, 3, 4), num_blocks=1, tier=Tier.DISK)
    assert tree.tiers(A, prompt(1, 2, 3, 4, 5, 6, 7, 8)) == {Tier.DRAM: 4, Tier.DISK: 2}
    assert tree.tiers(B, prompt(1, 2, 3, 4, 5, 6)) == {Tier.DRAM: 6}
    assert tree.match(prompt(1, 2, 3, 4, 5, 6)) == {A: 6, B: 6}


def test_what_is_lost_and_stored_anew_is_in_dram_again() -> None:
    tree = new_tree()
    tree.insert(A, prompt(1, 2, 3, 4))
    tree.insert(B, prompt(1, 2, 3, 4))
    tree.put(A, prompt(1, 2, 3, 4), num_blocks=2, tier=Tier.HBM)
    tree.remove(A, prompt(1, 2, 3, 4))
    tree.insert(A, prompt(1, 2, 3, 4))
    assert tree.tiers(A, prompt(1, 2, 3, 4)) == {Tier.HBM: 2, Tier.DRAM: 2}


def test_blocks_that_an_instance_does_not_hold_cannot_be_in_a_tier() -> None:
    tree = new_tree()
    tree.insert(A, prompt(1, 2, 3, 4))
    tree.insert(B, prompt(1, 2))
    assert not tree.put(B, prompt(1, 2, 3, 4), num_blocks=1, tier=Tier.DISK)
    assert not tree.put(A, prompt(1, 2, 9, 9), num_blocks=1, tier=Tier.DISK)
    assert not tree.put(A, prompt(1, 2), b"tenant", num_blocks=1, tier=Tier.DISK)
    assert tree.tiers(B, prompt(1, 2, 3, 4)) == {Tier.DRAM: 2}


def test_what_grows_after_a_run_in_another_tier_is_in_dram() -> None:
    tree = new_tree()
    tree.insert(A, prompt(1, 2), keep_s=ANNOUNCED_S)
    tree.put(A, prompt(1, 2), num_blocks=1, tier=Tier.DISK)
    tree.insert(A, prompt(1, 2, 3, 4), keep_s=ANNOUNCED_S)
    assert tree.tiers(A, prompt(1, 2, 3, 4)) == {Tier.DISK: 2, Tier.DRAM: 2}


class TreeAgainstList(RuleBasedStateMachine):
    """Prompts of few distinct tokens, so that they meet, split and outlive each other often."""

    prompts = st.lists(st.integers(0, 1), max_size=12)
    instances = st.sampled_from([A, B, InstanceId("c")])

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.tree = new_tree(clock=self.clock)
        self.held: dict[tuple[InstanceId, tuple[int, ...]], float] = {}
        self.elsewhere: dict[tuple[InstanceId, tuple[int, ...]], Tier] = {}

    @rule(instance=instances, tokens=prompts, keep_s=st.sampled_from([None, 3.0, ANNOUNCED_S]))
    def insert(self, instance: InstanceId, tokens: list[int], keep_s: float | None) -> None:
        self.tree.insert(instance, prompt(*tokens), keep_s=keep_s)
        until = self.clock.now() + (TTL_S if keep_s is None else keep_s)
        for end in range(BLOCK, len(tokens) + 1, BLOCK):
            key = (instance, tuple(tokens[:end]))
            self.held[key] = max(until, self.held.get(key, 0.0))

    @rule(instance=instances, tokens=prompts)
    def remove(self, instance: InstanceId, tokens: list[int]) -> None:
        known = (instance, tuple(tokens[: len(tokens) // BLOCK * BLOCK])) in self.held
        removed = self.tree.remove(instance, prompt(*tokens))
        assert removed or not known
        whole = tuple(tokens[: len(tokens) // BLOCK * BLOCK])
        if whole:
            lost = [k for k in self.held if k[0] == instance and k[1][: len(whole)] == whole]
            for key in lost:
                del self.held[key]

    @rule(instance=instances)
    def forget(self, instance: InstanceId) -> None:
        self.tree.forget(instance)
        self.held = {key: until for key, until in self.held.items() if key[0] != instance}

    @rule(seconds=st.sampled_from([1.0, 4.0, TTL_S]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.held = {key: until for key, until in self.held.items() if until > self.clock.now()}

    @rule(instance=instances, tokens=prompts, num_blocks=st.integers(0, 3), tier=st.sampled_from(Tier))
    def announce(self, instance: InstanceId, tokens: list[int], num_blocks: int, tier: Tier) -> None:
        self.insert(instance, tokens, ANNOUNCED_S)
        whole = len(tokens) // BLOCK * BLOCK
        known = self.tree.put(instance, prompt(*tokens), num_blocks=num_blocks, tier=tier)
        assert known or not whole
        for end in range(max(whole - (num_blocks - 1) * BLOCK, BLOCK), whole + 1, BLOCK):
            self.elsewhere[instance, tuple(tokens[:end])] = tier

    @rule(instance=instances, tokens=prompts)
    def tiers(self, instance: InstanceId, tokens: list[int]) -> None:
        self.tree.match(prompt(*tokens))  # lets go of what has expired on this path
        expected: dict[Tier, int] = {}
        for end in range(BLOCK, len(tokens) + 1, BLOCK):
            key = (instance, tuple(tokens[:end]))
            if key in self.held:
                tier = self.elsewhere.get(key, Tier.DRAM)
                expected[tier] = expected.get(tier, 0) + BLOCK
        assert self.tree.tiers(instance, prompt(*tokens)) == expected

    @rule(tokens=prompts)
    def match(self, tokens: list[int]) -> None:
        expected: dict[InstanceId, int] = {}
        for instance, held in self.held:
            if tuple(tokens[: len(held)]) == held:
                expected[instance] = max(expected.get(instance, 0), len(held))
        assert self.tree.match(prompt(*tokens)) == expected

    @invariant()
    def counts_at_least_the_blocks_that_are_held(self) -> None:
        self.elsewhere = {key: tier for key, tier in self.elsewhere.items() if key in self.held}
        assert self.tree.stats().num_blocks >= len({tokens for _, tokens in self.held})


TestTreeAgainstList = TreeAgainstList.TestCase
TestTreeAgainstList.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


class BoundedTree(RuleBasedStateMachine):
    """With little room: never over the bound, never a claim that was not made."""

    def __init__(self) -> None:
        super().__init__()
        self.tree = new_tree(max_blocks=5)
        self.claimed: set[tuple[InstanceId, tuple[int, ...]]] = set()

    @rule(instance=TreeAgainstList.instances, tokens=TreeAgainstList.prompts)
    def insert(self, instance: InstanceId, tokens: list[int]) -> None:
        self.tree.insert(instance, prompt(*tokens))
        self.claimed.update((instance, tuple(tokens[:end])) for end in range(0, len(tokens) + 1, BLOCK))

    @rule(instance=TreeAgainstList.instances, tokens=TreeAgainstList.prompts)
    def remove(self, instance: InstanceId, tokens: list[int]) -> None:
        self.tree.remove(instance, prompt(*tokens))

    @rule(tokens=TreeAgainstList.prompts)
    def match(self, tokens: list[int]) -> None:
        for instance, num_tokens in self.tree.match(prompt(*tokens)).items():
            assert (instance, tuple(tokens[:num_tokens])) in self.claimed

    @invariant()
    def stays_within_its_room(self) -> None:
        assert self.tree.stats().num_blocks <= 5


TestBoundedTree = BoundedTree.TestCase
TestBoundedTree.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


def test_what_is_expected_counts_as_held_and_not_as_ready_until_it_is_confirmed() -> None:
    tree = new_tree()
    tree.insert(A, prompt(*range(8)))
    tree.insert(A, prompt(*range(16)), is_coming=True)
    tree.insert(B, prompt(*range(12)), is_coming=True)
    held, ready, _ = tree.walk(prompt(*range(20)))
    assert [size for size, _ in held] == [12, 16]
    assert [size for size, _ in ready] == [8]
    tree.insert(A, prompt(*range(16)), keep_s=0.001)
    assert [size for size, _ in tree.walk(prompt(*range(20))).ready] == [16]
    assert tree.remove(A, prompt(*range(4)))
    assert tree.match(prompt(*range(20))) == {A: 2, B: 12}
    assert [size for size, _ in tree.walk(prompt(*range(20))).ready] == [2]

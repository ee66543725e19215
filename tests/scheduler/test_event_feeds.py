"""What instances announce and what the prompt trees then say: events, snapshots, and everything that is not true."""

from array import array
from random import Random

import pytest
from clusters import colocated, disaggregated
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from memserve.cluster.view import ClusterView
from memserve.core.clock import ManualClock
from memserve.core.enums import Role, Tier
from memserve.core.ids import Incarnation, InstanceId, RequestId
from memserve.pool.ledger import PoolLedger
from memserve.scheduler.decision import Outcome
from memserve.scheduler.event_feeds import Discard, EventKind
from memserve.scheduler.scheduler import Scheduler
from memserve.wire.events import (
    Applied,
    BlocksEvicted,
    BlocksMoved,
    BlocksStored,
    EventBatch,
    IndexEntry,
    IndexEvent,
    SnapshotPart,
    TierRun,
)

BLOCK = 4
C0, C1 = InstanceId("c0"), InstanceId("c1")
OLD, NEW = Incarnation(1), Incarnation(2)
ONE = RequestId("1")
CONFIRM_S, TTL_S = 5.0, 100.0
PROMPT = list(range(100, 112))


def packed(tokens: list[int]) -> bytes:
    return array("i", tokens).tobytes()


class Cluster:
    """A scheduler, a clock, and what is announced to it."""

    def __init__(self, where: ClusterView | None = None) -> None:
        self.clock = ManualClock()
        self.where = where or colocated(2)
        self.scheduler = Scheduler(
            block_size=BLOCK,
            policy="prompt-tree",
            clock=self.clock,
            random=Random(0),
            ttl_s=TTL_S,
            confirm_s=CONFIRM_S,
        )

    def follow(self, instance: InstanceId = C0, incarnation: Incarnation = OLD) -> None:
        """A new instance with nothing in its pool."""
        self.scheduler.admit(instance, incarnation, Role.COLOCATED)
        self.snapshot(instance=instance, incarnation=incarnation)

    def snapshot(
        self,
        *entries: IndexEntry,
        seq: int = 0,
        instance: InstanceId = C0,
        incarnation: Incarnation = OLD,
        first: bool = True,
        last: bool = True,
    ) -> Applied:
        part = SnapshotPart(
            instance=instance, incarnation=incarnation, seq=seq, entries=entries, is_first=first, is_last=last
        )
        return self.scheduler.reset(part)

    def tell(
        self,
        *events: IndexEvent,
        instance: InstanceId = C0,
        incarnation: Incarnation = OLD,
        as_of: float | None = None,
    ) -> Applied:
        batch = EventBatch(instance=instance, incarnation=incarnation, events=events, as_of=as_of)
        return self.scheduler.apply(batch)

    def held(self, tokens: list[int], namespace: bytes = b"") -> dict[str, int]:
        decision = self.scheduler.decide(request=ONE, tokens=tokens, namespace=namespace, view=self.where)
        self.scheduler.finish(ONE, outcome=Outcome.FAILED)
        return {c.instance: c.matched_tokens for c in decision.candidates if c.matched_tokens}

    def discards(self) -> dict[tuple[InstanceId, Discard], int]:
        return self.scheduler.event_stats().discarded


def stored(seq: int, tokens: list[int], namespace: bytes = b"") -> BlocksStored:
    return BlocksStored(seq=seq, namespace=namespace, tokens=packed(tokens), num_blocks=1, tier=Tier.DRAM)


def evicted(seq: int, tokens: list[int], namespace: bytes = b"") -> BlocksEvicted:
    return BlocksEvicted(seq=seq, namespace=namespace, tokens=packed(tokens), num_blocks=1)


def entry(tokens: list[int], *, at: int = 0, namespace: bytes = b"") -> IndexEntry:
    tiers = (TierRun(tier=Tier.DRAM, num_blocks=len(tokens) // BLOCK),)
    return IndexEntry(namespace=namespace, at=at * 4, tokens=packed(tokens), tiers=tiers)


@pytest.fixture
def cluster() -> Cluster:
    made = Cluster()
    made.follow()
    return made


def test_what_an_instance_stores_is_known(cluster: Cluster) -> None:
    assert cluster.tell(stored(1, PROMPT)) == Applied(position=1)
    assert cluster.held(PROMPT) == {"c0": 12}


def test_what_an_instance_evicts_is_known_to_be_gone_with_all_that_follows(cluster: Cluster) -> None:
    cluster.tell(stored(1, PROMPT), evicted(2, PROMPT[:8]))
    assert cluster.held(PROMPT) == {"c0": 4}


def test_a_block_that_moves_to_another_tier_is_still_held(cluster: Cluster) -> None:
    moved = BlocksMoved(
        seq=2, namespace=b"", tokens=packed(PROMPT[:8]), num_blocks=1, source=Tier.HBM, target=Tier.DRAM
    )
    assert cluster.tell(stored(1, PROMPT), moved).position == 2
    assert cluster.held(PROMPT) == {"c0": 12}


def tiers(cluster: Cluster) -> dict[Tier, int]:
    return cluster.scheduler.decide(request=ONE, tokens=PROMPT, view=cluster.where).tiers


def test_a_decision_says_in_which_tiers_the_chosen_instance_holds_the_prompt(cluster: Cluster) -> None:
    cluster.follow()
    cluster.tell(BlocksStored(seq=1, namespace=b"", tokens=packed(PROMPT), num_blocks=3, tier=Tier.HBM))
    assert tiers(cluster) == {Tier.HBM: 12}
    cluster.tell(
        BlocksMoved(seq=2, namespace=b"", tokens=packed(PROMPT[:8]), num_blocks=1, source=Tier.HBM, target=Tier.DISK)
    )
    assert tiers(cluster) == {Tier.HBM: 8, Tier.DISK: 4}


def test_a_move_of_what_was_never_announced_is_counted(cluster: Cluster) -> None:
    cluster.follow()
    cluster.tell(
        BlocksMoved(seq=1, namespace=b"", tokens=packed(PROMPT), num_blocks=1, source=Tier.HBM, target=Tier.DISK)
    )
    assert cluster.discards() == {(C0, Discard.UNANNOUNCED): 1}


def test_a_snapshot_tells_the_tiers_too(cluster: Cluster) -> None:
    cluster.follow()
    runs = (TierRun(tier=Tier.DRAM, num_blocks=1), TierRun(tier=Tier.DISK, num_blocks=1))
    cluster.snapshot(
        IndexEntry(namespace=b"", at=0, tokens=packed(PROMPT[:8]), tiers=runs),
        IndexEntry(namespace=b"", at=32, tokens=packed(PROMPT[8:]), tiers=(TierRun(tier=Tier.HBM, num_blocks=1),)),
    )
    assert tiers(cluster) == {Tier.DRAM: 4, Tier.DISK: 4, Tier.HBM: 4}


def test_events_of_one_namespace_tell_nothing_about_another(cluster: Cluster) -> None:
    cluster.tell(stored(1, PROMPT, b"tenant"), stored(2, PROMPT), evicted(3, PROMPT[:4]))
    assert cluster.held(PROMPT) == {}
    assert cluster.held(PROMPT, b"tenant") == {"c0": 12}


def test_what_an_instance_announced_does_not_age(cluster: Cluster) -> None:
    cluster.tell(stored(1, PROMPT))
    cluster.clock.advance(10 * TTL_S)
    assert cluster.held(PROMPT) == {"c0": 12}


def served(cluster: Cluster, tokens: list[int]) -> str:
    decision = cluster.scheduler.decide(request=ONE, tokens=tokens, view=cluster.where)
    cluster.scheduler.finish(ONE, outcome=Outcome.SERVED)
    return decision.decode


def test_what_a_response_told_is_dropped_when_the_instance_does_not_confirm_it() -> None:
    cluster = Cluster(colocated(1))
    cluster.follow()
    assert served(cluster, PROMPT) == "c0"
    assert cluster.held(PROMPT) == {"c0": 12}
    cluster.clock.advance(CONFIRM_S)
    assert cluster.held(PROMPT) == {}


def test_what_a_response_told_stays_as_far_as_the_instance_confirms_it() -> None:
    cluster = Cluster(colocated(1))
    cluster.follow()
    served(cluster, PROMPT)
    cluster.tell(stored(1, PROMPT[:8]))
    cluster.clock.advance(CONFIRM_S)
    assert cluster.held(PROMPT) == {"c0": 8}


def test_a_response_does_not_make_announced_blocks_doubtful() -> None:
    cluster = Cluster(colocated(1))
    cluster.follow()
    cluster.tell(stored(1, PROMPT[:8]))
    served(cluster, PROMPT)
    cluster.clock.advance(CONFIRM_S)
    assert cluster.held(PROMPT) == {"c0": 8}


def test_without_events_a_response_is_believed_for_the_ttl() -> None:
    cluster = Cluster(colocated(1))
    served(cluster, PROMPT)
    cluster.clock.advance(TTL_S - 1)
    assert cluster.held(PROMPT) == {"c0": 12}
    cluster.clock.advance(1)
    assert cluster.held(PROMPT) == {}


def test_an_event_that_was_applied_before_changes_nothing(cluster: Cluster) -> None:
    cluster.tell(stored(1, PROMPT), evicted(2, PROMPT[:4]))
    assert cluster.tell(stored(1, PROMPT)) == Applied(position=2, discarded={"sequence-backwards": 1})
    assert cluster.held(PROMPT) == {}
    assert cluster.discards() == {(C0, Discard.BACKWARDS): 1}


def test_events_after_a_hole_wait_until_it_is_filled(cluster: Cluster) -> None:
    assert cluster.tell(stored(2, PROMPT), evicted(3, PROMPT[:8])).position == 0
    assert cluster.held(PROMPT) == {}
    assert cluster.tell(stored(1, [7] * 4), stored(2, PROMPT), evicted(3, PROMPT[:8])).position == 3
    assert cluster.held(PROMPT) == {"c0": 4}
    assert cluster.discards() == {(C0, Discard.GAP): 2}


def test_the_end_of_what_was_never_announced_is_counted_and_the_rest_applied(cluster: Cluster) -> None:
    applied = cluster.tell(evicted(1, [9] * 8), stored(2, PROMPT))
    assert applied == Applied(position=2, discarded={"unannounced-eviction": 1})
    assert cluster.held(PROMPT) == {"c0": 12}


@pytest.mark.parametrize("tokens", [b"", b"123", packed([1, 2, 3])])
def test_tokens_that_are_no_whole_blocks_are_discarded(cluster: Cluster, tokens: bytes) -> None:
    broken = BlocksStored(seq=1, namespace=b"", tokens=tokens, num_blocks=1, tier=Tier.DRAM)
    assert cluster.tell(broken, stored(2, PROMPT)) == Applied(position=2, discarded={"malformed": 1})
    assert cluster.held(PROMPT) == {"c0": 12}


def test_events_of_an_unknown_instance_are_counted_and_change_nothing(cluster: Cluster) -> None:
    stranger = InstanceId("stranger")
    assert cluster.tell(stored(1, PROMPT), stored(2, PROMPT), instance=stranger).position is None
    assert cluster.snapshot(entry(PROMPT), instance=stranger).position is None
    assert cluster.held(PROMPT) == {}
    assert cluster.discards() == {("", Discard.UNKNOWN_INSTANCE): 3}


def test_events_of_an_older_incarnation_are_counted_and_change_nothing(cluster: Cluster) -> None:
    cluster.follow(incarnation=NEW)
    assert cluster.tell(stored(1, PROMPT), incarnation=OLD).position is None
    assert cluster.held(PROMPT) == {}
    assert cluster.discards() == {(C0, Discard.OLDER_INCARNATION): 1}


def test_a_new_incarnation_starts_from_nothing_and_needs_a_snapshot(cluster: Cluster) -> None:
    cluster.tell(stored(1, PROMPT))
    cluster.scheduler.admit(C0, NEW, Role.COLOCATED)
    assert cluster.held(PROMPT) == {}
    assert cluster.tell(stored(1, PROMPT), incarnation=NEW).position is None
    assert cluster.snapshot(entry(PROMPT), seq=7, incarnation=NEW).position == 7
    assert cluster.held(PROMPT) == {"c0": 12}


def test_the_late_end_of_an_old_incarnation_does_not_touch_the_new_one(cluster: Cluster) -> None:
    cluster.follow(incarnation=NEW)
    cluster.tell(stored(1, PROMPT), incarnation=NEW)
    cluster.scheduler.forget(C0, OLD)
    assert cluster.held(PROMPT) == {"c0": 12}
    cluster.scheduler.forget(C0, NEW)
    assert cluster.held(PROMPT) == {}
    assert cluster.scheduler.event_stats().feeds == ()


def test_a_snapshot_replaces_what_was_known(cluster: Cluster) -> None:
    cluster.tell(stored(1, PROMPT), stored(2, [1] * 4))
    cluster.snapshot(entry([1] * 4), entry([2] * 8, at=4), entry([3] * 4, at=8), seq=9)
    assert cluster.held(PROMPT) == {}
    assert cluster.held([1] * 4 + [2] * 8) == {"c0": 12}
    assert cluster.held([1] * 4 + [2] * 4 + [3] * 4) == {"c0": 12}
    assert cluster.tell(evicted(10, [1] * 4)).position == 10
    assert cluster.held([1] * 4) == {}


def test_a_snapshot_in_parts_is_needed_until_the_last_one_came(cluster: Cluster) -> None:
    assert cluster.snapshot(entry([1] * 4), seq=5, last=False).position is None
    assert cluster.tell(stored(6, PROMPT)).discarded == {"sequence-gap": 1}
    assert cluster.snapshot(entry([2] * 4), seq=5, first=False).position == 5
    assert cluster.held([1] * 4) == cluster.held([2] * 4) == {"c0": 4}


def test_parts_of_two_snapshots_do_not_mix(cluster: Cluster) -> None:
    cluster.snapshot(entry([1] * 4), seq=5, last=False)
    assert cluster.snapshot(entry([2] * 4), seq=6, first=False).position is None
    assert cluster.held([2] * 4) == {}


def test_an_entry_that_continues_nothing_is_discarded(cluster: Cluster) -> None:
    applied = cluster.snapshot(entry([1] * 4, at=4), entry([2] * 4, at=-4), entry(PROMPT), seq=1)
    assert applied == Applied(position=1, discarded={"malformed": 2})
    assert cluster.held(PROMPT) == {"c0": 12}


def test_instances_of_every_role_have_their_own_tree() -> None:
    cluster = Cluster(disaggregated(1, 1))
    for name, role in (("p0", Role.PREFILL), ("d0", Role.DECODE), ("m0", Role.MEMORY)):
        instance = InstanceId(name)
        cluster.scheduler.admit(instance, OLD, role)
        cluster.snapshot(entry(PROMPT), instance=instance)
    assert cluster.held(PROMPT) == {"p0": 12, "d0": 12}
    trees = cluster.scheduler.stats().trees
    assert {role: tree.num_blocks for role, tree in trees.items() if tree.num_blocks} == {
        Role.PREFILL: 3,
        Role.DECODE: 3,
        Role.MEMORY: 3,
    }


def test_lag_grows_until_an_instance_told_all_there_is(cluster: Cluster) -> None:
    cluster.clock.advance(3)
    cluster.tell(stored(1, PROMPT), as_of=None)
    assert cluster.scheduler.event_stats().feeds[0].lag_s == 3
    cluster.tell(stored(2, PROMPT), as_of=2.0)
    assert cluster.scheduler.event_stats().feeds[0].lag_s == 1
    cluster.tell(stored(4, PROMPT), as_of=3.0)
    assert cluster.scheduler.event_stats().feeds[0].lag_s == 1


def test_an_instance_that_is_not_heard_for_the_ttl_is_not_believed_until_it_starts_anew(cluster: Cluster) -> None:
    cluster.tell(stored(1, PROMPT), as_of=0.0)
    cluster.clock.advance(TTL_S)
    assert cluster.tell().position == 1
    assert cluster.held(PROMPT) == {"c0": 12}
    cluster.clock.advance(1)
    assert cluster.tell().position is None
    assert cluster.held(PROMPT) == {}
    assert cluster.snapshot(entry(PROMPT), seq=1).position == 1
    assert cluster.tell(stored(2, PROMPT)).position == 2
    assert cluster.held(PROMPT) == {"c0": 12}


def test_a_namespace_that_is_none_is_discarded(cluster: Cluster) -> None:
    applied = cluster.tell(stored(1, PROMPT, b"x" * 257), stored(2, PROMPT, b"x" * 256))
    assert applied == Applied(position=2, discarded={"malformed": 1})
    assert cluster.snapshot(entry(PROMPT, namespace=b"x" * 257)).discarded == {"malformed": 1}


def test_events_are_counted_by_kind(cluster: Cluster) -> None:
    cluster.tell(stored(1, PROMPT), stored(2, [1] * 4), evicted(3, PROMPT))
    (feed,) = cluster.scheduler.event_stats().feeds
    assert feed.num_events == {
        EventKind.SNAPSHOT: 1,
        EventKind.STORED: 2,
        EventKind.EVICTED: 1,
        EventKind.MOVED: 0,
    }
    assert feed.position == 3


class TreeFollowsLedger(RuleBasedStateMachine):
    """A real ledger announces; batches come late, twice, with holes, or are replaced by a snapshot."""

    prompts = st.lists(st.integers(0, 1), min_size=1, max_size=4)

    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster(colocated(1))
        self.cluster.scheduler.admit(C0, OLD, Role.COLOCATED)
        capacity = {Tier.HBM: 4, Tier.DRAM: 6}
        self.ledger = PoolLedger(block_size=BLOCK, capacity=capacity, clock=self.cluster.clock)
        self.told: list[IndexEvent] = []
        self.position: int | None = None

    @rule(prompt=prompts, tier=st.sampled_from([Tier.HBM, Tier.DRAM]))
    def insert(self, prompt: list[int], tier: Tier) -> None:
        blocks = self.ledger.allocate(len(prompt), tier=tier, owner="test")
        self.ledger.insert(self.tokens(prompt), blocks)
        self.collect()

    @rule(prompt=prompts)
    def delete(self, prompt: list[int]) -> None:
        self.ledger.delete(self.tokens(prompt))
        self.collect()

    @rule(back=st.integers(0, 3), skip=st.integers(0, 1))
    def deliver(self, back: int, skip: int) -> None:
        begin = max(0, (self.position or 0) - back) + skip
        self.position = self.cluster.tell(*self.told[begin:]).position

    @rule(max_bytes=st.sampled_from([1, 1000]))
    def read_snapshot(self, max_bytes: int) -> None:
        snapshot = self.ledger.snapshot()
        place = 0
        while True:
            entries = snapshot.entries(place, max_bytes=max_bytes)
            end = place + len(entries)
            last = end == len(snapshot)
            self.position = self.cluster.snapshot(*entries, seq=snapshot.seq, first=place == 0, last=last).position
            if last:
                return
            place = end

    @rule()
    def catch_up(self) -> None:
        if self.position is None:
            self.read_snapshot(max_bytes=1)
        else:
            self.position = self.cluster.tell(*self.told[self.position :]).position

    @invariant()
    def what_is_told_in_full_is_what_there_is(self) -> None:
        if self.position != len(self.told):
            return
        for bits in range(16):
            tokens = self.tokens([bits >> place & 1 for place in range(4)])
            match = self.ledger.match(tokens, owner="test")
            if match.lease is not None:
                self.ledger.release(match.lease)
            expected = {"c0": match.num_tokens} if match.num_tokens else {}
            assert self.cluster.held(tokens) == expected

    @invariant()
    def nothing_that_is_true_is_discarded(self) -> None:
        reasons = {reason for _, reason in self.cluster.discards()}
        assert reasons <= {Discard.GAP, Discard.BACKWARDS}

    def collect(self) -> None:
        for event in self.ledger.take_events():
            assert isinstance(event, BlocksStored | BlocksEvicted | BlocksMoved)
            self.told.append(event)

    def tokens(self, prompt: list[int]) -> list[int]:
        return [token for token in prompt for _ in range(BLOCK)]


TestTreeFollowsLedger = TreeFollowsLedger.TestCase
TestTreeFollowsLedger.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)

"""What engines hold for themselves in HBM: it draws requests to them, and nobody is sent there to pull it."""

from array import array
from collections.abc import Sequence
from random import Random

import pytest
from clusters import colocated

from memserve.core.clock import ManualClock
from memserve.core.enums import Role, Tier
from memserve.core.ids import Incarnation, InstanceId, RequestId
from memserve.scheduler.cost_model import PathTerms, PrefillTerms
from memserve.scheduler.decision import Decision, Outcome
from memserve.scheduler.pull_policy import PullPolicy
from memserve.scheduler.scheduler import Scheduler
from memserve.wire.events import (
    Applied,
    BlocksEvicted,
    BlocksStored,
    EventBatch,
    IndexEntry,
    IndexEvent,
    SnapshotPart,
    TierRun,
)

C0, C1 = InstanceId("c0"), InstanceId("c1")
ONE = Incarnation(1)
BLOCK = 4
PROMPT = list(range(4_000))


class Cluster:
    """Two instances that are followed and hold nothing; requests go where least is queued."""

    def __init__(self) -> None:
        pulls = PullPolicy(
            prefill=PrefillTerms(fixed_s=0.5, per_token_s=0.001, per_pair_s=0.0),
            path=PathTerms(latency_s=0.1, bytes_per_s=1e12),
        )
        self.scheduler = Scheduler(
            block_size=BLOCK, policy="least-load", clock=ManualClock(), random=Random(3), pulls=pulls
        )
        for instance in (C0, C1):
            self.scheduler.admit(instance, ONE, Role.COLOCATED)
            self.snapshot(instance=instance)

    def snapshot(self, *entries: IndexEntry, seq: int = 0, instance: InstanceId = C0) -> Applied:
        part = SnapshotPart(instance=instance, incarnation=ONE, seq=seq, entries=entries, is_first=True, is_last=True)
        return self.scheduler.reset(part)

    def tell(self, *events: IndexEvent) -> Applied:
        return self.scheduler.apply(EventBatch(instance=C0, incarnation=ONE, events=events, as_of=None))

    def held(self) -> dict[str, int]:
        decision = self.decide("held")
        self.scheduler.finish(decision.request, outcome=Outcome.FAILED)
        return {candidate.instance: candidate.matched_tokens for candidate in decision.candidates}

    def decide(self, name: str, *, but: Sequence[InstanceId] = (), tokens: list[int] = PROMPT) -> Decision:
        return self.scheduler.decide(request=RequestId(name), tokens=tokens, view=colocated(2), exclude=frozenset(but))


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def packed(tokens: list[int]) -> bytes:
    return array("i", tokens).tobytes()


def stored(seq: int, tokens: list[int], *, is_mirrored: bool) -> BlocksStored:
    tier = Tier.HBM if is_mirrored else Tier.DRAM
    data = packed(tokens)
    return BlocksStored(
        seq=seq, namespace=b"", tokens=data, num_blocks=len(tokens) // BLOCK, tier=tier, is_mirrored=is_mirrored
    )


def test_what_an_engine_holds_for_itself_counts_for_it_until_it_is_gone(cluster: Cluster) -> None:
    cluster.tell(stored(1, PROMPT[:400], is_mirrored=False), stored(2, PROMPT, is_mirrored=True))
    assert cluster.held() == {"c0": 4_000, "c1": 0}
    gone = BlocksEvicted(seq=3, namespace=b"", tokens=packed(PROMPT[:200]), num_blocks=951, is_mirrored=True)
    assert not cluster.tell(gone).discarded
    assert cluster.held() == {"c0": 400, "c1": 0}


def test_an_eviction_from_the_pool_leaves_what_the_engine_holds(cluster: Cluster) -> None:
    cluster.tell(stored(1, PROMPT, is_mirrored=False), stored(2, PROMPT, is_mirrored=True))
    cluster.tell(BlocksEvicted(seq=3, namespace=b"", tokens=packed(PROMPT[:4]), num_blocks=1000))
    assert cluster.held()["c0"] == 4_000


def test_nobody_is_sent_to_pull_what_only_an_engine_holds(cluster: Cluster) -> None:
    cluster.decide("busy", but=[C1], tokens=[7] * 100)
    cluster.tell(stored(1, PROMPT, is_mirrored=True))
    decision = cluster.decide("mirrored")
    assert (decision.decode, decision.source) == (C1, None)
    cluster.scheduler.finish(decision.request, outcome=Outcome.FAILED)
    cluster.tell(stored(2, PROMPT, is_mirrored=False))
    decision = cluster.decide("shared")
    assert (decision.decode, decision.source) == (C1, C0)


def test_nobody_is_sent_to_pull_what_a_response_told_before_the_pool_has_it(cluster: Cluster) -> None:
    first = cluster.decide("first", but=[C1])
    cluster.scheduler.prefilled(first.request)
    decision = cluster.decide("early")
    assert (decision.decode, decision.source) == (C1, None), "least is queued there, and there is nothing to pull"
    assert {c.instance: c.matched_tokens for c in decision.candidates}[C0] == 4_000
    cluster.scheduler.finish(decision.request, outcome=Outcome.FAILED)
    cluster.tell(stored(1, PROMPT, is_mirrored=False))
    assert cluster.decide("late").source == C0


def test_a_snapshot_tells_of_both_and_replaces_both(cluster: Cluster) -> None:
    run = (TierRun(tier=Tier.DRAM, num_blocks=1),)
    in_pool = IndexEntry(namespace=b"", at=0, tokens=packed(PROMPT[:4]), tiers=run)
    mirrored = IndexEntry(namespace=b"", at=0, tokens=packed(PROMPT), tiers=run, is_mirrored=True)
    cluster.snapshot(in_pool, mirrored, seq=9)
    assert cluster.held()["c0"] == 4_000
    cluster.snapshot(in_pool, seq=12)
    assert cluster.held()["c0"] == 4


def test_an_instance_that_left_is_forgotten_in_both(cluster: Cluster) -> None:
    cluster.tell(stored(1, PROMPT, is_mirrored=True))
    cluster.scheduler.forget(C0, ONE)
    assert cluster.held()["c0"] == 0


def test_a_decision_shows_what_is_taken_from_which_tier(cluster: Cluster) -> None:
    cluster.tell(stored(1, PROMPT, is_mirrored=False), stored(2, PROMPT[:400], is_mirrored=True))
    decision = cluster.decide("shown", but=[C1])
    assert decision.tiers == {Tier.HBM: 400, Tier.DRAM: 3_600}


def test_what_is_evicted_soon_after_it_was_computed_is_not_counted_on_any_more(cluster: Cluster) -> None:
    decision = cluster.decide("one", but=[C1])
    cluster.scheduler.sent(decision.request)
    assert cluster.held()[C0] == len(PROMPT)  # about to be computed
    cluster.tell(stored(1, PROMPT, is_mirrored=False))
    cluster.scheduler.finish(decision.request, outcome=Outcome.SERVED)
    cluster.tell(BlocksEvicted(seq=2, namespace=b"", tokens=packed(PROMPT[:BLOCK]), num_blocks=1000))
    assert cluster.held()[C0] == 0

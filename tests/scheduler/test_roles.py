"""Which instances a request may be given to, alone or in pairs, and what decides between the two."""

from random import Random

import pytest
from clusters import colocated, disaggregated, flexible, instance, view

from memserve.cluster.view import ClusterView
from memserve.core.clock import ManualClock
from memserve.core.enums import CachingMode, Role
from memserve.core.ids import InstanceId, RequestId
from memserve.scheduler.candidates import candidates
from memserve.scheduler.cost_model import DecodeTerms, PathTerms, PrefillTerms
from memserve.scheduler.decision import Decision, Outcome, Placement
from memserve.scheduler.pull_policy import PullPolicy
from memserve.scheduler.scheduler import Scheduler

LONG = list(range(10_000, 14_000))


class Cluster:
    """A second for 1,000 tokens, 10 ms for a step, and next to nothing to move KV."""

    def __init__(self, where: ClusterView, *, latency_s: float = 0.001, policy: str = "prompt-tree") -> None:
        self.clock = ManualClock()
        self.where = where
        pulls = PullPolicy(
            prefill=PrefillTerms(fixed_s=0.0, per_token_s=0.001, per_pair_s=0.0),
            decode=DecodeTerms(fixed_s=0.01, per_sequence_s=0.0, per_context_token_s=0.0),
            path=PathTerms(latency_s=latency_s, bytes_per_s=1e9),
        )
        self.scheduler = Scheduler(block_size=4, policy=policy, clock=self.clock, random=Random(2), pulls=pulls)

    def decide(self, name: str, tokens: list[int], *, alone: bool = False, only: str = "") -> Decision:
        others = frozenset(i.instance for i in self.where.instances if only and i.instance != only)
        return self.scheduler.decide(
            request=RequestId(name), tokens=tokens, view=self.where, alone=alone, exclude=others
        )

    def decode_many(self, on: str, number: int) -> None:
        """So many answers are under way there."""
        for i in range(number):
            found = self.decide(f"{on} {i}", [*range(100 * i, 100 * i + 8)], only=on)
            self.scheduler.prefilled(found.request)


def test_idle_instances_of_any_role_serve_requests_whole() -> None:
    found = Cluster(flexible(2)).decide("1", LONG)
    assert found.prefill is None


def test_a_prompt_is_computed_apart_from_an_instance_that_decodes_and_from_what_would_disturb_the_answer() -> None:
    cluster = Cluster(flexible(2))
    cluster.decode_many("f0", 12)
    first = cluster.decide("long", LONG)
    assert (first.prefill or first.decode) == "f1"
    for i in range(4):  # f1 gives ever more of its time to prefills
        cluster.decide(f"long {i}", [*range(i * 5_000, i * 5_000 + 4_000)], only="f1")
    short = cluster.decide("short", [*range(90_000, 90_400)])
    assert (short.prefill, short.decode) in {(None, "f0"), ("f1", "f0")}


def test_a_request_that_must_not_be_split_is_not() -> None:
    cluster = Cluster(flexible(2))
    cluster.decode_many("f0", 12)
    for i in range(4):
        cluster.decide(f"long {i}", [*range(i * 5_000, i * 5_000 + 4_000)], only="f1")
    assert all(cluster.decide(f"a {i}", LONG, alone=True).prefill is None for i in range(4))


def test_one_instance_alone_is_never_split() -> None:
    assert Cluster(flexible(1)).decide("1", LONG).prefill is None


@pytest.mark.parametrize("policy", ["least-load", "round-robin", "session", "power-of-two"])
def test_policies_that_do_not_predict_seconds_serve_requests_whole_on_instances_of_any_role(policy: str) -> None:
    cluster = Cluster(flexible(3), policy=policy)
    assert {cluster.decide(str(i), [i] * 40).prefill for i in range(9)} == {None}


def test_prefill_instances_hand_over_to_instances_of_any_role() -> None:
    where = view(instance("p", Role.PREFILL), instance("f", Role.FLEXIBLE))
    cluster = Cluster(where, policy="round-robin")
    found = {(d.prefill, d.decode) for d in (cluster.decide(str(i), [i] * 40) for i in range(6))}
    assert found == {("p", "f"), (None, "f")}


def test_all_roles_may_be_mixed_and_each_is_used_for_what_it_is() -> None:
    where = view(
        *(instance(name, role) for name, role in zip("pdcf", (r for r in Role if r is not Role.MEMORY), strict=True))
    )
    cluster = Cluster(where)
    decisions = [cluster.decide(str(i), [*range(i * 5_000, i * 5_000 + 2_000)]) for i in range(40)]
    assert {d.prefill for d in decisions} <= {None, "p", "f"}
    assert {d.decode for d in decisions} <= {"d", "c", "f"}
    assert {d.decode for d in decisions if d.prefill is None} <= {"c", "f"}
    assert {d.prefill or d.decode for d in decisions} == {"p", "c", "f"}
    placements = {placement for _, placement in cluster.scheduler.decision_counts()}
    assert {Placement.ALONE, Placement.SPLIT} <= placements


def test_the_decode_instance_is_chosen_by_what_it_already_holds() -> None:
    cluster = Cluster(disaggregated(1, 4), latency_s=0.1)
    first = cluster.decide("first", LONG)
    cluster.scheduler.prefilled(first.request)
    cluster.scheduler.finish(first.request, outcome=Outcome.SERVED)
    cluster.clock.advance(300.0)
    again = [cluster.decide(str(i), [*LONG, i, i, i, i]) for i in range(3)]
    for decision in again:
        cluster.scheduler.finish(decision.request, outcome=Outcome.FAILED)
    assert again[0].decode == first.decode


def test_the_first_choice_counts_on_pulling() -> None:
    """The holder is busy for a second: to wait costs more than to pull, and less than to compute again."""
    for latency_s, elsewhere in ((0.05, True), (30.0, False)):
        cluster = Cluster(colocated(2), latency_s=latency_s)
        first = cluster.decide("first", LONG)
        cluster.clock.advance(4.0)
        cluster.scheduler.prefilled(first.request)
        cluster.scheduler.finish(first.request, outcome=Outcome.SERVED)
        cluster.clock.advance(300.0)
        cluster.decide("busy", [*range(50_000, 51_000)], only=first.decode)
        again = cluster.decide("again", [*LONG, 1, 2, 3, 4])
        assert (again.decode != first.decode) == elsewhere
        assert (again.source == first.decode) == elsewhere


def test_a_path_with_much_under_way_is_not_pulled_over() -> None:
    cluster = Cluster(colocated(3), latency_s=1.5, policy="round-robin")
    first = cluster.decide("first", LONG)
    cluster.scheduler.prefilled(first.request)
    cluster.scheduler.finish(first.request, outcome=Outcome.SERVED)
    others = [i.instance for i in cluster.where.instances if i.instance != first.decode]
    pulls = []
    for number in range(4):
        decision = cluster.decide(str(number), LONG, only="")
        if decision.decode in others:
            pulls.append(decision)
    assert pulls[0].source == first.decode
    assert pulls[0].pull is not None
    assert pulls[0].pull.queue_s == 0.0
    assert pulls[-1].pull is not None
    assert pulls[-1].pull.queue_s >= 1.5
    assert pulls[-1].source is None


def test_a_memory_instance_gives_what_it_holds_and_computes_nothing() -> None:
    where = view(instance("m", Role.MEMORY), instance("c", Role.COLOCATED))
    found = candidates(where)
    assert found.first.instances == found.whole.instances == (InstanceId("c"),)
    assert set(found.givers.instances) == {"m", "c"}
    assert candidates(where, caching=CachingMode.BASIC).givers.instances == ()

"""Who comes next: shares by weight, nobody starved, bounds kept, against a plain list of who waits."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from memserve.gateway.fair_queue import FairQueue, Place, QueueFull


def queue(*, max_waiting: int = 1000, max_per_tenant: int = 1000) -> FairQueue:
    return FairQueue(max_waiting=max_waiting, max_per_tenant=max_per_tenant)


def taken(fair: FairQueue, count: int) -> list[str]:
    places = [fair.take() for _ in range(count)]
    return [place.tenant for place in places if place is not None]


def test_two_tenants_take_turns_however_many_requests_one_of_them_has() -> None:
    fair = queue()
    for _ in range(100):
        fair.enter("greedy", weight=1.0, cost=10.0)
    for _ in range(3):
        fair.enter("modest", weight=1.0, cost=10.0)
    assert taken(fair, 6).count("modest") == 3


def test_who_comes_later_does_not_wait_for_all_that_was_asked_before() -> None:
    fair = queue()
    for _ in range(50):
        fair.enter("early", weight=1.0, cost=10.0)
    taken(fair, 20)
    fair.enter("late", weight=1.0, cost=10.0)
    assert "late" in taken(fair, 2)


def test_shares_are_those_of_the_weights_in_cost_not_in_requests() -> None:
    fair = queue()
    for _ in range(200):
        fair.enter("heavy", weight=3.0, cost=10.0)
        fair.enter("light", weight=1.0, cost=10.0)
        fair.enter("long", weight=1.0, cost=20.0)
    first = taken(fair, 90)
    assert [first.count(name) for name in ("heavy", "light", "long")] == [
        pytest.approx(60, abs=2), pytest.approx(20, abs=2), pytest.approx(10, abs=2)
    ]  # fmt: skip


def test_what_needed_not_wait_counts_all_the_same() -> None:
    fair = queue()
    fair.pass_by("busy", weight=1.0, cost=1000.0)
    fair.enter("busy", weight=1.0, cost=1.0)
    fair.enter("other", weight=1.0, cost=1.0)
    assert taken(fair, 2) == ["other", "busy"]


def test_beyond_the_bounds_the_numbers_are_said_and_nothing_is_queued() -> None:
    fair = queue(max_waiting=3, max_per_tenant=2)
    fair.enter("a", weight=1.0, cost=1.0)
    fair.enter("a", weight=1.0, cost=1.0)
    with pytest.raises(QueueFull, match="2 requests of yours"):
        fair.enter("a", weight=1.0, cost=1.0)
    fair.enter("b", weight=1.0, cost=1.0)
    with pytest.raises(QueueFull, match="3 requests are waiting"):
        fair.enter("c", weight=1.0, cost=1.0)
    assert len(fair) == 3


class FairQueueMachine(RuleBasedStateMachine):
    """Enter, take and leave in any order, beside the list of places that must be there."""

    def __init__(self) -> None:
        super().__init__()
        self.fair = queue(max_waiting=20, max_per_tenant=8)
        self.places: list[Place] = []

    @rule(tenant=st.sampled_from("abc"), weight=st.floats(0.1, 10), cost=st.floats(1, 1e6))
    def enter(self, tenant: str, weight: float, cost: float) -> None:
        own = sum(place.tenant == tenant for place in self.places)
        if own >= 8 or len(self.places) >= 20:
            with pytest.raises(QueueFull):
                self.fair.enter(tenant, weight=weight, cost=cost)
        else:
            self.places.append(self.fair.enter(tenant, weight=weight, cost=cost))

    @rule()
    def take(self) -> None:
        place = self.fair.take()
        assert (place is None) == (not self.places)
        if place is not None:
            own = [each for each in self.places if each.tenant == place.tenant]
            assert place == own[0], "a tenant's requests come in their order"
            self.places.remove(place)

    @precondition(lambda self: self.places)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        place = data.draw(st.sampled_from(self.places))
        assert self.fair.leave(place)
        assert not self.fair.leave(place)
        self.places.remove(place)

    @invariant()
    def it_counts_who_waits(self) -> None:
        assert len(self.fair) == len(self.places)
        for tenant in "abc":
            assert self.fair.waiting(tenant) == sum(place.tenant == tenant for place in self.places)


TestFairQueueMachine = FairQueueMachine.TestCase
TestFairQueueMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)

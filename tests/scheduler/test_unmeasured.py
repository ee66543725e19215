"""Before anything was measured: predictions are a guess, and give way to the first thing that is seen."""

from random import Random

import pytest
from clusters import colocated, flexible

from memserve.cluster.view import ClusterView
from memserve.core.clock import ManualClock
from memserve.core.ids import InstanceId, RequestId
from memserve.scheduler.decision import Decision
from memserve.scheduler.factors import Factors
from memserve.scheduler.load import LoadLedger
from memserve.scheduler.predictions import ASSUMED_PREFILL, Predictions
from memserve.scheduler.pull_policy import PullPolicy
from memserve.scheduler.scheduler import Scheduler

A = InstanceId("a")
SHARED = list(range(1_728))
TOKENS_PER_S = 400
"""A twelfth of what is assumed."""


class Agents:
    """Prompts that share nearly all, one a second, on engines that nobody has measured."""

    def __init__(self, where: ClusterView) -> None:
        self.clock = ManualClock()
        self.where = where
        self.scheduler = Scheduler(
            block_size=16, policy="prompt-tree", clock=self.clock, random=Random(1), pulls=PullPolicy()
        )

    def decide(self, name: str) -> Decision:
        prompt = [*SHARED, *range(1_000 * ord(name), 1_000 * ord(name) + 50)]
        found = self.scheduler.decide(request=RequestId(name), tokens=prompt, view=self.where)
        self.scheduler.sent(RequestId(name))
        return found


@pytest.mark.parametrize("where", [colocated(2), flexible(2)])
def test_a_prompt_waits_for_its_prefix_even_where_computing_was_guessed_to_be_quick(where: ClusterView) -> None:
    agents = Agents(where)
    first = agents.decide("a")
    found = []
    for name, after_s in (("b", 0.8), ("c", 2.3), ("d", 1.0)):
        agents.clock.advance(after_s)
        found.append(agents.decide(name))
    assert {d.prefill or d.decode for d in found} == {first.prefill or first.decode}


def test_a_prefill_under_way_shows_how_slow_the_instances_are_at_least() -> None:
    predictions = Predictions()
    guessed_s = ASSUMED_PREFILL.seconds(2_000, 0.0)
    predictions.computing_still(prompt_tokens=2_000, held_tokens=0, seconds=5 * guessed_s)
    predictions.computing_still(prompt_tokens=2_000, held_tokens=0, seconds=3 * guessed_s)
    assert predictions.prefill_s(A, 2_000, 0) == pytest.approx(5 * guessed_s)
    predictions.prefilled(A, prompt_tokens=2_000, held_tokens=0, seconds=12 * guessed_s)
    predictions.computing_still(prompt_tokens=2_000, held_tokens=0, seconds=90 * guessed_s)
    assert predictions.prefill_s(A, 2_000, 0) == pytest.approx(12 * guessed_s)


def test_the_first_observation_replaces_a_guess_and_corrects_a_measurement_by_half() -> None:
    guessed, measured = Factors(prior=0), Factors(prior=1)
    for factors in (guessed, measured):
        factors.learn(A, 4.0)
    assert guessed.of(A) == pytest.approx(4.0)
    assert measured.usual == pytest.approx(2.0)
    assert (guessed.is_guess, measured.is_guess) == (False, False)


def test_one_slow_answer_does_not_make_a_slow_instance_and_twenty_do() -> None:
    factors = Factors(prior=0)
    for _ in range(5):
        factors.learn(A, 1.0)
    factors.learn("b", 3.0)
    assert factors.of("b") < 1.5
    for _ in range(19):
        factors.learn(A, 1.0)
        factors.learn("b", 3.0)
    assert factors.of("b") > 2.0
    assert factors.of(A) < 1.3


def test_an_instance_whose_first_answer_was_slow_is_not_taken_for_slow_while_only_others_are_asked() -> None:
    factors = Factors(prior=0)
    factors.learn("b", 1.4)
    for _ in range(10):
        factors.learn(A, 1.0)
    assert factors.of("b") == pytest.approx(factors.of(A), rel=0.1)


def test_the_pace_of_an_instance_that_nobody_asks_follows_that_of_all() -> None:
    load = LoadLedger(ManualClock())
    load.set_pace(A, 1.0, usual=1.4)
    load.set_pace(InstanceId("b"), 0.9, usual=1.1)
    assert load.of((A, InstanceId("b"))).pace.tolist() == pytest.approx([1.1, 0.99])


def test_what_is_queued_takes_longer_once_its_instance_turns_out_to_be_slower() -> None:
    agents = Agents(colocated(1))
    agents.decide("a")
    waits_s = []
    for name in "bc":
        agents.clock.advance(2.0)
        waits_s.append(agents.decide(name).candidates[0].wait_s)
    agents.clock.advance(len(SHARED) / TOKENS_PER_S - 4.0)
    agents.scheduler.prefilled(RequestId("a"))
    waits_s.append(agents.decide("d").candidates[0].wait_s)
    assert waits_s[0] == pytest.approx(0.0, abs=0.01)
    assert waits_s[2] == pytest.approx(2 * 50 / TOKENS_PER_S, rel=0.2)

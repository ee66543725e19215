"""Prefixes that many prompts share: brought to further instances in time, to a bounded number, and only such."""

from random import Random

from clusters import colocated

from memserve.core.clock import ManualClock
from memserve.core.ids import RequestId
from memserve.scheduler.cost_model import PathTerms, PrefillTerms
from memserve.scheduler.decision import Decision, Outcome
from memserve.scheduler.prefix_heat import FADES_IN_S, PrefixHeat
from memserve.scheduler.pull_policy import PullPolicy
from memserve.scheduler.scheduler import Scheduler
from memserve.scheduler.weighing import HEAVY_HITTER, MAX_REPLICAS

SYSTEM = list(range(4_000))


class Served:
    """Requests one after the other, each an idle second after the last: no queue ever drives anyone away."""

    def __init__(self, num_instances: int, *, every_s: float = 1.0) -> None:
        self.clock = ManualClock()
        pulls = PullPolicy(
            prefill=PrefillTerms(fixed_s=0.0, per_token_s=0.001, per_pair_s=0.0),
            path=PathTerms(latency_s=0.01, bytes_per_s=1e9),
        )
        self.scheduler = Scheduler(block_size=4, policy="prompt-tree", clock=self.clock, random=Random(5), pulls=pulls)
        self.view = colocated(num_instances)
        self.every_s = every_s

    def request(self, number: int, *, tokens: list[int] | None = None) -> Decision:
        prompt = [*(SYSTEM if tokens is None else tokens), *range(10_000 * number, 10_000 * number + 40)]
        decision = self.scheduler.decide(request=RequestId(str(number)), tokens=prompt, view=self.view)
        self.clock.advance(decision.forecast.pull_s + decision.forecast.prefill_s)
        self.scheduler.prefilled(decision.request)
        self.scheduler.finish(decision.request, outcome=Outcome.SERVED)
        self.clock.advance(self.every_s)
        return decision


def test_a_shared_system_prompt_is_pulled_to_the_other_instance_before_there_is_a_queue() -> None:
    served = Served(2)
    decisions = [served.request(number) for number in range(1, 80)]
    by = {name: [d for d in decisions if d.decode == name] for name in ("c0", "c1")}
    assert min(len(found) for found in by.values()) >= 15
    pulled = [d for d in decisions if d.source is not None]
    assert len(pulled) == 1  # once it is there, nobody pulls again


def test_a_prefix_spreads_no_further_than_its_bound() -> None:
    served = Served(MAX_REPLICAS + 8, every_s=0.2)
    decisions = [served.request(number) for number in range(1, 40 * MAX_REPLICAS)]
    assert 4 <= len({d.decode for d in decisions}) <= MAX_REPLICAS


def test_a_prefix_that_is_seldom_asked_for_stays_where_it_is() -> None:
    served = Served(4, every_s=3 * FADES_IN_S)
    assert len({served.request(number).decode for number in range(1, 12)}) == 1


def test_nobody_pulls_what_is_still_being_computed() -> None:
    served = Served(2)
    prompts = [[*SYSTEM, number] for number in range(1, 5)]
    decisions = []
    for number, prompt in enumerate(prompts):
        decisions.append(served.scheduler.decide(request=RequestId(str(number)), tokens=prompt, view=served.view))
        served.scheduler.sent(RequestId(str(number)))
        served.clock.advance(0.4)
    first = decisions[0].decode
    assert [d.source for d in decisions] == [None] * len(decisions)
    assert [d.decode for d in decisions] == [first] * len(decisions)  # its second is sooner over
    served.scheduler.prefilled(RequestId("0"))
    last = served.scheduler.decide(request=RequestId("last"), tokens=[*SYSTEM, 99], view=served.view)
    assert (last.source, last.decode != first) == (first, True)


def test_counters_fade_and_are_bounded() -> None:
    clock = ManualClock()
    heat = PrefixHeat(clock, max_prefixes=3)
    assert [heat.asked(b"a", b"") for _ in range(3)] == [1.0, 2.0, 3.0]
    assert heat.asked(b"a", b"salt") == 1.0
    clock.advance(FADES_IN_S)
    assert 2.0 < heat.asked(b"a", b"") < HEAVY_HITTER
    for number in range(10):
        heat.asked(bytes([number]), b"")
    assert len(heat) == 3
    assert heat.asked(b"a", b"") == 1.0

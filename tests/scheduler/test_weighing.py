"""What all instances are weighed at, in arrays at once, against the same formula written out for one of them."""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import exp
from random import Random

import numpy.typing as npt
import pytest
from clusters import disaggregated, flexible, instance, view
from hypothesis import given
from hypothesis import strategies as st

from memserve.cluster.view import ClusterView
from memserve.core.clock import ManualClock
from memserve.core.enums import Phase, Role
from memserve.core.ids import InstanceId, RequestId
from memserve.scheduler.candidates import Group, candidates
from memserve.scheduler.choice import Choice
from memserve.scheduler.cost_model import DecodeTerms, PathTerms, PrefillTerms
from memserve.scheduler.flight import Asked, Place
from memserve.scheduler.holdings import Holdings
from memserve.scheduler.load import LoadLedger
from memserve.scheduler.load_table import RECENT_S
from memserve.scheduler.path_queues import PathQueues
from memserve.scheduler.predictions import Predictions
from memserve.scheduler.prompt_tree_policy import PromptTreePolicy
from memserve.scheduler.prospect import Prospect
from memserve.scheduler.slots import Slots
from memserve.scheduler.weighing import Weigher

BLOCK = 4
PROMPT = array("i", range(100, 100 + 10 * BLOCK)).tobytes()
OUTPUT = 100.0
CAPACITY = 3_000
HELD = st.just(0) | st.integers(0, 10)
"""Blocks: often none, as those that hold nothing are weighed in a way of their own."""


class ShownEverybody:
    """The same policy where it gives no terms."""

    def scores(self, choice: Choice) -> npt.ArrayLike:
        return PromptTreePolicy(Random(0)).scores(choice)


@dataclass
class Loaded:
    """An instance by hand: what it holds of the prompt and what it has to do, all of it begun at time 0."""

    pool: int = 0
    engine: int = 0
    prefills: Sequence[float] = ()
    contexts: Sequence[int] = ()
    pace: float | None = None
    path_s: float = 0.0

    @property
    def held(self) -> int:
        return max(self.pool, self.engine)

    @property
    def factor(self) -> float:
        return 1.0 if self.pace is None else self.pace

    def wait_s(self, now: float) -> float:
        queued = sum(self.prefills) * self.factor
        return queued - min(now, queued / max(len(self.prefills), 1))

    def share(self, now: float) -> float:
        return min(sum(self.prefills) * self.factor / RECENT_S * exp(-now / RECENT_S), 0.9)


LOADED = st.builds(
    Loaded,
    pool=HELD.map(lambda blocks: blocks * BLOCK),
    engine=HELD.map(lambda blocks: blocks * BLOCK),
    prefills=st.lists(st.sampled_from([0.0, 0.5, 3.0]), max_size=3),
    contexts=st.lists(st.sampled_from([10, 500, 2_900]), max_size=3),
    pace=st.sampled_from([None, 0.5, 0.501, 3.0]),
    path_s=st.sampled_from([0.0, 0.0, 2.0]),
)


class Cluster:
    def __init__(self, shape: ClusterView, loaded: dict[InstanceId, Loaded], now: float) -> None:
        self.found, self.loaded, self.now = candidates(shape), loaded, now
        clock, slots = ManualClock(), Slots()
        self.predictions = Predictions(
            prefill=PrefillTerms(fixed_s=0.01, per_token_s=0.02, per_pair_s=1e-4, per_cached_token_s=1e-3),
            decode=DecodeTerms(fixed_s=0.02, per_sequence_s=0.003, per_context_token_s=1e-5),
            path=PathTerms(latency_s=0.02, bytes_per_s=5e3),
            kv_capacity_tokens=CAPACITY,
        )
        self.paths = PathQueues(clock)
        ledger = LoadLedger(clock)
        holdings = Holdings(
            block_size=BLOCK, clock=clock, slots=slots, ttl_s=600.0, confirm_s=30.0, max_tree_blocks=1_000
        )
        self.weigher = Weigher(
            holdings=holdings,
            slots=slots,
            load=ledger,
            predictions=self.predictions,
            paths=self.paths,
            clock=clock,
            random=Random(0),
        )
        for each in shape.instances:
            self._put(holdings, ledger, Place(instance=each.instance, role=each.role))
        clock.advance(now)

    def _put(self, holdings: Holdings, ledger: LoadLedger, place: Place) -> None:
        name, loaded = place.instance, self.loaded[place.instance]
        holdings.believe(place, PROMPT[: loaded.pool * 4], b"")
        holdings.expect(place, PROMPT[: loaded.engine * 4], b"", within_s=60.0)
        for number, seconds in enumerate(loaded.prefills):
            request = RequestId(f"{name}-{number}")
            ledger.add(request=request, phase=Phase.PREFILL, instance=name, num_tokens=7, seconds=seconds)
        for number, context in enumerate(loaded.contexts):
            request = RequestId(f"{name}-{number}")
            ledger.add(request=request, phase=Phase.DECODE, instance=name, num_tokens=1, context_tokens=context)
        if loaded.pace is not None:
            ledger.set_pace(name, loaded.pace, usual=1.0)
        if loaded.path_s:
            self.paths.begin(name, InstanceId("elsewhere"), loaded.path_s)

    def look(self) -> Prospect:
        asked = Asked(data=PROMPT, namespace=b"", session="")
        return self.weigher.look(asked, self.found, givers=self.found.givers, output_tokens=OUTPUT)

    def score(self, group: Group, phase: Phase, name: InstanceId, prospect: Prospect) -> float:
        """As prompt_tree_policy.py has it on top."""
        terms, loaded, total = self.predictions.decode, self.loaded[name], len(PROMPT) // 4
        added = terms.per_sequence_s + terms.per_context_token_s * total
        others = len(loaded.contexts) * terms.per_sequence_s + sum(loaded.contexts) * terms.per_context_token_s
        steps = OUTPUT + (2 if phase is Phase.DECODE else 0)
        steps_s = (others + terms.fixed_s + added) / (1 - loaded.share(self.now)) * steps
        answer = steps_s + len(loaded.contexts) * added * steps
        wait = loaded.wait_s(self.now)
        if phase is Phase.DECODE:
            return wait + self.predictions.path.seconds((total - loaded.held) * prospect.bytes_per_token) + answer
        first, whole = (5.0 if prospect.may_split else 21.0), self.predictions.prefill.seconds(total, 0.0)
        if not prospect.may_split:
            kept = sum(loaded.contexts)
            wait = max(wait, max(kept + total + OUTPUT - CAPACITY, 0) / max(kept, 1) * steps_s)
        crowd = sum(self.loaded[i].wait_s(self.now) for i in group.instances) / len(group.instances) / whole
        delayed = len(loaded.contexts) + first * max(crowd, 1.0)
        score = first * wait + self.compute_s(loaded, prospect) * delayed + 0.1 * whole * loaded.share(self.now)
        return score + (answer if phase is Phase.WHOLE else 0.0)

    def chosen(self) -> set[int]:
        """Places of those that are chosen for whole requests, by one random number or another."""
        weighed = self.weigher.weigh(PromptTreePolicy(Random(0)), self.found.whole, Phase.WHOLE, self.look())
        return {weighed.best(Random(seed))[1] for seed in range(50)}

    def groups(self) -> Iterator[tuple[Phase, Group]]:
        """Who may do what, where anybody may."""
        found = self.found
        pairs = ((Phase.WHOLE, found.whole), (Phase.PREFILL, found.prefill), (Phase.DECODE, found.decode))
        return ((phase, group) for phase, group in pairs if group.instances)

    def compute_s(self, loaded: Loaded, prospect: Prospect) -> float:
        total, most = len(PROMPT) // 4, max(self.loaded[i].pool for i in self.found.givers.instances)
        own = self.predictions.prefill.seconds(total, loaded.held / total)
        if most <= loaded.held:
            return own * loaded.factor
        busy = [self.loaded[i].path_s for i in self.found.givers.instances if self.loaded[i].pool == most]
        path = self.predictions.path.seconds((most - loaded.held) * prospect.bytes_per_token)
        wait = max(min(busy) - self.now, 0.0)
        return min(own, wait + path + self.predictions.prefill.seconds(total, most / total)) * loaded.factor


@st.composite
def clusters(draw: st.DrawFn) -> Cluster:
    shapes = [
        disaggregated(3, 4),
        flexible(4),
        view(*[instance(f"c{i}", Role.COLOCATED) for i in range(5)], instance("m", Role.MEMORY)),
        view(instance("f", Role.FLEXIBLE), instance("c", Role.COLOCATED), instance("d", Role.DECODE)),
    ]
    shape = draw(st.sampled_from(shapes))
    loaded = {each.instance: draw(LOADED) for each in shape.instances}
    return Cluster(shape, loaded, draw(st.sampled_from([0.0, 0.7, 30.0])))


def idle(*loaded: Loaded) -> Cluster:
    shape = view(*[instance(f"c{i}", Role.COLOCATED) for i in range(len(loaded))])
    return Cluster(shape, dict(zip([each.instance for each in shape.instances], loaded, strict=True)), 0.0)


@given(clusters())
def test_each_instance_is_weighed_as_if_it_were_weighed_alone(cluster: Cluster) -> None:
    prospect = cluster.look()
    for phase, group in cluster.groups():
        weighed = cluster.weigher.weigh(PromptTreePolicy(Random(0)), group, phase, prospect)
        told = [weighed.candidate((0.0, place)).matched_tokens for place in range(len(group.instances))]
        assert told == [cluster.loaded[i].held for i in group.instances]
        expected = [cluster.score(group, phase, name, prospect) for name in group.instances]
        assert weighed.scores.all().tolist() == pytest.approx(expected, rel=1e-9)
        without_terms = cluster.weigher.weigh(ShownEverybody(), group, phase, prospect)
        assert without_terms.scores.all().tolist() == pytest.approx(expected, rel=1e-9)


@given(clusters(), st.integers(0, 9))
def test_the_chosen_one_is_as_good_as_the_best_and_the_next_best_follow(cluster: Cluster, seed: int) -> None:
    prospect = cluster.look()
    group, phase = (
        (cluster.found.whole, Phase.WHOLE) if cluster.found.whole.instances else (cluster.found.prefill, Phase.PREFILL)
    )
    weighed = cluster.weigher.weigh(PromptTreePolicy(Random(0)), group, phase, prospect)
    chosen = weighed.best(Random(seed))
    first, *others = weighed.listed(chosen)
    assert first == weighed.candidate(chosen)
    scores = sorted(weighed.scores.all().tolist())
    assert first.score <= weighed.scores.as_good_as(scores[0])
    assert [c.score for c in others] == sorted(c.score for c in others)
    assert sorted(c.score for c in (first, *others)) == pytest.approx(scores)
    assert sorted(c.instance for c in (first, *others)) == sorted(group.instances)


@given(clusters(), st.integers(0, 9))
def test_a_look_at_a_few_finds_whom_a_look_at_all_finds(cluster: Cluster, seed: int) -> None:
    prospect = cluster.look()
    for phase, group in cluster.groups():
        weighed = cluster.weigher.weigh(PromptTreePolicy(Random(0)), group, phase, prospect)
        scores = weighed.scores.all().tolist()
        few = weighed.scores.few_best()
        if few is not None:
            found = [at for at in range(len(scores)) if any(places >> at & 1 for _, places in few)]
            most = weighed.scores.as_good_as(min(scores))
            assert found == [at for at, score in enumerate(scores) if score <= most * (1 + 1e-9)]
        score, place = weighed.best(Random(seed))
        assert score == pytest.approx(scores[place], rel=1e-9)


@pytest.mark.parametrize(("pace", "chosen"), [(0.995, {0, 1, 2}), (0.95, {0})])
def test_what_no_prediction_can_tell_apart_is_the_same(pace: float, chosen: set[int]) -> None:
    """Of idle instances one always looks a little faster: it does not get every request."""
    assert idle(Loaded(pace=pace), Loaded(), Loaded()).chosen() == chosen


@pytest.mark.parametrize(("held", "chosen"), [(9 * BLOCK, {1}), (1 * BLOCK, {1}), (0, {0, 1, 2})])
def test_whoever_holds_a_part_of_the_prompt_is_told_apart(held: int, chosen: set[int]) -> None:
    assert idle(Loaded(), Loaded(pool=held), Loaded()).chosen() == chosen

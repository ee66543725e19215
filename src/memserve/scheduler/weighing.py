"""Candidates weighed for one prompt: what each holds and has queued, what it would cost, its score.

Owns the numbers that policies see, and the choice among equals by the injected Random; nothing that lasts but how
often prefixes were asked for. What a heavy hitter costs to bring to a further instance is not counted against that
instance, as those that come after gain from it: so it spreads, in proportion to how often it is asked for and to no
more than MAX_REPLICAS instances, before its holders' queues are long.
"""

from collections.abc import Sequence
from random import Random

import numpy as np

from memserve.core.clock import Clock
from memserve.core.enums import Phase
from memserve.core.errors import InvariantError
from memserve.core.ids import InstanceId
from memserve.scheduler.candidates import Candidates, Group
from memserve.scheduler.choice import Choice, Costs, Policy
from memserve.scheduler.flight import Asked
from memserve.scheduler.holdings import Held, Holdings, longest
from memserve.scheduler.load import InstanceLoads, LoadLedger, instance_loads
from memserve.scheduler.load_table import GroupLoads, Numbers
from memserve.scheduler.path_queues import PathQueues
from memserve.scheduler.places import AllPlaces, Places
from memserve.scheduler.predictions import Predictions
from memserve.scheduler.prefix_heat import PrefixHeat
from memserve.scheduler.prospect import Prospect
from memserve.scheduler.score_terms import FormScores, HeldAlike, Question
from memserve.scheduler.slots import Slots
from memserve.scheduler.tokens import TOKEN_BYTES
from memserve.scheduler.weighed import GivenScores, Scores, Weighed

MAX_REPLICAS = 16
"""A prefix that so many instances hold is brought to no further one ahead of need."""
HEAVY_HITTER = 4.0
"""Asked for as often within PrefixHeat's time by each instance that holds it, a prefix goes to a further one."""

_SOURCES_TRIED = 4


class Weigher:
    def __init__(
        self,
        *,
        holdings: Holdings,
        slots: Slots,
        load: LoadLedger,
        predictions: Predictions,
        paths: PathQueues,
        clock: Clock,
        random: Random,
        max_replicas: int = MAX_REPLICAS,
    ) -> None:
        self._max_replicas = max_replicas
        self._holdings = holdings
        self._slots = slots
        self._places = AllPlaces(slots)
        self._load = load
        self._predictions = predictions
        self._paths = paths
        self._heat = PrefixHeat(clock)
        self._random = random

    def look(self, asked: Asked, found: Candidates, *, givers: Group, output_tokens: float) -> Prospect:
        """What is held of the prompt and by whom; only `givers` are asked to give it to others."""
        held = self._holdings.match(found.kinds, asked)
        most, holders = longest(held.ready, self._places.of(givers).members)
        predictions, num_tokens = self._predictions, asked.num_tokens
        prefill = predictions.prefill
        return Prospect(
            asked=asked,
            num_tokens=num_tokens,
            may_split=bool(found.prefill.instances and found.whole.instances),
            held=held,
            sources=holders,
            source_tokens=most,
            source_wait_s=0.0 if self._paths.are_free() else self._least_wait_s(holders),
            predictions=predictions,
            bytes_per_token=found.bytes_per_token,
            whole_s=prefill.seconds(num_tokens, 0.0) * predictions.computing.usual,
            rest_s=prefill.seconds(num_tokens, most / (num_tokens or 1)),
            is_spreading=self._is_spreading(asked, held, pullable=most),
            output_tokens=output_tokens,
        )

    def weigh(self, policy: Policy, group: Group, phase: Phase, prospect: Prospect) -> Weighed:
        """`group` must not be empty. Raises InvariantError for a policy that does not give each a score."""
        places = self._places.of(group)
        loads = self._load.group(places.group.instances)
        alike = _held_alike(prospect, phase, places)
        score_terms = getattr(policy, "score_terms", None)
        terms = None if score_terms is None else score_terms(self._question(prospect, phase, loads))
        if terms is None:
            scores: Scores = GivenScores(
                self._ask(policy, self._choice(group, phase, prospect, instance_loads(loads), alike))
            )
        else:
            scores = FormScores(terms, loads, places, alike)
        return Weighed(places=places, phase=phase, levels=prospect.held.levels, loads=loads, scores=scores)

    def _question(self, prospect: Prospect, phase: Phase, loads: GroupLoads) -> Question:
        predictions, capacity, whole_s = self._predictions, self._predictions.kv_capacity_tokens, prospect.whole_s
        most_context = 0.0
        if capacity is not None:
            most_context = self._load.most_context(above=capacity - prospect.num_tokens - prospect.output_tokens)
        return Question(
            phase=phase,
            may_split=prospect.may_split,
            prompt_tokens=prospect.num_tokens,
            output_tokens=prospect.output_tokens,
            whole_s=whole_s,
            decode=predictions.decode,
            decode_pace=predictions.decoding.usual,
            kv_capacity_tokens=capacity,
            mean_wait_s=self._load.mean_wait_s(loads, above=whole_s),
            most_context=most_context,
        )

    def _choice(
        self, group: Group, phase: Phase, prospect: Prospect, loads: InstanceLoads, alike: Sequence[HeldAlike]
    ) -> Choice:
        """All there is to know of everybody."""
        predictions, places, count = self._predictions, self._places.of(group), len(group.instances)
        most_tokens, _, most_s, most_move_s = alike[-1]
        matched, compute_s, move_s = np.full(count, most_tokens), np.full(count, most_s), np.full(count, most_move_s)
        for num_tokens, holders, own_s, own_move_s in alike[:-1]:
            where = places.of(holders)
            matched[where], compute_s[where], move_s[where] = num_tokens, own_s, own_move_s
        return Choice(
            phase=phase,
            may_split=prospect.may_split,
            prompt_tokens=prospect.num_tokens,
            session=prospect.asked.session,
            instances=group.instances,
            matched=matched,
            used=group.used,
            loads=loads,
            costs=Costs(
                compute_s=compute_s * loads.pace,
                whole_s=prospect.whole_s,
                move_s=move_s,
                decode=predictions.decode,
                decode_pace=predictions.decoding.usual,
                output_tokens=prospect.output_tokens,
                kv_capacity_tokens=predictions.kv_capacity_tokens,
            ),
        )

    @staticmethod
    def _ask(policy: Policy, choice: Choice) -> Numbers:
        scores = np.array(policy.scores(choice), dtype=np.float64)
        if scores.shape != choice.matched.shape:
            raise InvariantError(f"{policy!r} gave {scores.size} scores to {choice.matched.size} instances: one each")
        return scores

    def source(self, prospect: Prospect) -> InstanceId:
        """One of its sources whose path is free as soon as was told; there must be some."""
        sources, count = prospect.sources, prospect.sources.bit_count()
        if count > 1 and not self._paths.are_free():
            soonest = prospect.source_wait_s  # time goes on, and nothing was ordered since
            return self._random.choice([i for i in self._slots.names(sources) if self._paths.wait_s(i) <= soonest])
        return self._slots.pick(sources, int(self._random.random() * count))

    def _least_wait_s(self, holders: int) -> float:
        """Until the path of one of them is free. Of a few drawn at random, where many hold a prefix."""
        sources = self._slots.names(holders)
        if len(sources) > _SOURCES_TRIED:
            sources = tuple(self._random.sample(sources, _SOURCES_TRIED))
        return min(map(self._paths.wait_s, sources), default=0.0)

    def _is_spreading(self, asked: Asked, held: Held, *, pullable: int) -> bool:
        """What nobody can give yet is not spread: each further instance would have to compute it."""
        if not held.levels:
            return False
        most, holders = longest(held.levels, ~0)
        heat = self._heat.asked(asked.data[: most * TOKEN_BYTES], asked.namespace)
        num_holders = holders.bit_count()
        return pullable == most and num_holders < self._max_replicas and heat >= HEAVY_HITTER * num_holders

    def __repr__(self) -> str:
        return f"Weigher({self._predictions}, {self._heat})"


def _held_alike(prospect: Prospect, phase: Phase, places: Places) -> list[HeldAlike]:
    """Those that hold most first. The last ones, often the most of all, have no bits where they hold nothing."""
    computes, compute_s, move_s = phase is not Phase.DECODE, 0.0, 0.0
    alike: list[HeldAlike] = []
    rest = places.members
    for num_tokens, holders in reversed(prospect.held.levels):
        own = holders & rest
        if own:
            rest ^= own
            if computes:
                compute_s = prospect.compute_s(num_tokens)
            else:
                move_s = prospect.move_s(num_tokens)
            alike.append((num_tokens, own, compute_s, move_s))
    if rest or places.num_strangers:
        alike.append((0, 0, prospect.compute_s(0), 0.0) if computes else (0, 0, 0.0, prospect.move_s(0)))
    if computes and prospect.is_spreading:
        least_s = min(compute_s for _, _, compute_s, _ in alike)
        return [(num_tokens, own, least_s, 0.0) for num_tokens, own, _, _ in alike]
    return alike

"""Candidates weighed for one prompt: what each holds and has queued, what it would cost, its score.

Owns the numbers that policies see, and the choice among equals by the injected Random; nothing that lasts but how
often prefixes were asked for. What a heavy hitter costs to bring to a further instance is not counted against that
instance, as those that come after gain from it: so it spreads, in proportion to how often it is asked for and to no
more than MAX_REPLICAS instances, before its holders' queues are long.
"""

from collections.abc import Sequence
from random import Random

import msgspec
import numpy as np
import numpy.typing as npt

from memserve.core.clock import Clock
from memserve.core.enums import Phase
from memserve.core.errors import InvariantError
from memserve.core.ids import InstanceId
from memserve.scheduler.candidates import Candidates, Group
from memserve.scheduler.choice import Choice, Costs, Policy
from memserve.scheduler.decision import MAX_CANDIDATES, Candidate
from memserve.scheduler.flight import Asked
from memserve.scheduler.holdings import Held, Holdings, longest
from memserve.scheduler.load import InstanceLoads, LoadLedger, Numbers
from memserve.scheduler.path_queues import PathQueues
from memserve.scheduler.places import AllPlaces
from memserve.scheduler.predictions import Predictions
from memserve.scheduler.prefix_heat import PrefixHeat
from memserve.scheduler.slots import Slots
from memserve.scheduler.tokens import TOKEN_BYTES

MAX_REPLICAS = 16
"""A prefix that so many instances hold is brought to no further one ahead of need."""
HEAVY_HITTER = 4.0
"""Asked for as often within PrefixHeat's time by each instance that holds it, a prefix goes to a further one."""

_SOURCES_TRIED = 4

_Held = tuple[int, npt.NDArray[np.intp]]
"""Leading tokens, and who of a group holds them or more, by place."""


class Prospect(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt before anyone is chosen."""

    asked: Asked
    may_split: bool
    """Serve it on one instance or on two: there are candidates for both."""
    held: Held
    source: InstanceId | None
    """Of those that hold most and may give it to others, the one whose path is free soonest."""
    source_tokens: int
    source_wait_s: float
    """Until its path is free."""
    whole_s: float
    """To compute all of the prompt, on an instance of the usual pace."""
    usual_pace: float
    transfer_pace: float
    bytes_per_token: float
    is_spreading: bool
    """The longest held prefix is a heavy hitter that few hold, and can be pulled: whom it goes to is not charged."""
    output_tokens: float


class Weighed(msgspec.Struct, frozen=True, kw_only=True):
    """One group, weighed for one phase."""

    group: Group
    phase: Phase
    matched: npt.NDArray[np.int64]
    queued: Numbers
    wait_s: Numbers
    scores: Numbers

    def best(self, random: Random, *, besides: InstanceId | None = None) -> int:
        """One of those with the lowest score; of the others, where there are some, when one is left out."""
        scores = self.scores
        if besides in self.group.index and len(scores) > 1:
            scores = scores.copy()
            scores[self.group.index[besides]] = np.inf
        equals = (scores == scores[scores.argmin()]).nonzero()[0]
        return int(equals[0] if len(equals) == 1 else equals[int(random.random() * len(equals))])

    def candidate(self, place: int) -> Candidate:
        return Candidate(
            instance=self.group.instances[place],
            role=self.group.roles[place],
            phase=self.phase,
            matched_tokens=int(self.matched[place]),
            queued_tokens=int(self.queued[place]),
            wait_s=float(self.wait_s[place]),
            score=float(self.scores[place]),
        )

    def listed(self, chosen: int) -> list[Candidate]:
        """The chosen one and after it the next best."""
        order = self.scores.argsort(kind="stable")[:MAX_CANDIDATES].tolist()
        others = [place for place in order if place != chosen]
        return [self.candidate(place) for place in (chosen, *others[: MAX_CANDIDATES - 1])]


class _Seen:
    """What there is to know of a group for one prompt."""

    __slots__ = ("all_hold_some", "compute_s", "levels", "loads", "matched")

    def __init__(self, *, matched: npt.NDArray[np.int64], levels: Sequence[_Held], loads: InstanceLoads) -> None:
        self.matched = matched
        self.levels = levels
        self.loads = loads
        self.all_hold_some = bool(levels) and len(levels[0][1]) == len(matched)
        self.compute_s: Numbers | None = None  # until a phase that computes asks


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
        self._last: tuple[Prospect | None, Group | None, _Seen | None] = (None, None, None)

    def look(self, asked: Asked, found: Candidates, *, givers: Group, output_tokens: float) -> Prospect:
        """What is held of the prompt and by whom; only `givers` are asked to give it to others."""
        held = self._holdings.match(found.kinds, asked)
        most, holders = longest(held.ready, self._places.of(givers).members)
        source = self._least_busy(holders) if holders else None
        predictions = self._predictions
        usual_pace = predictions.computing.of(None)
        return Prospect(
            asked=asked,
            may_split=bool(found.prefill.instances and found.whole.instances),
            held=held,
            source=source,
            source_wait_s=0.0 if source is None else self._paths.wait_s(source),
            source_tokens=most,
            whole_s=predictions.prefill.seconds(asked.num_tokens, 0.0) * usual_pace,
            usual_pace=usual_pace,
            transfer_pace=predictions.transferring.of(None),
            bytes_per_token=found.bytes_per_token,
            is_spreading=self._is_spreading(asked, held, pullable=most),
            output_tokens=output_tokens,
        )

    def weigh(self, policy: Policy, group: Group, phase: Phase, prospect: Prospect) -> Weighed:
        """`group` must not be empty. Raises InvariantError for a policy that does not give each a score."""
        seen = self._seen(group, prospect)
        loads = seen.loads
        choice = Choice(
            phase=phase,
            may_split=prospect.may_split,
            prompt_tokens=prospect.asked.num_tokens,
            session=prospect.asked.session,
            instances=group.instances,
            matched=seen.matched,
            used=group.used,
            loads=loads,
            costs=self._costs(prospect, seen, phase),
        )
        scores = np.array(policy.scores(choice), dtype=np.float64)
        if scores.shape != seen.matched.shape:
            raise InvariantError(f"{policy!r} gave {scores.size} scores to {seen.matched.size} instances: one each")
        return Weighed(
            group=self._places.of(group).group,
            phase=phase,
            matched=seen.matched,
            queued=loads.tokens.copy(),  # which go on to change
            wait_s=loads.prefill_s,
            scores=scores,
        )

    def _seen(self, group: Group, prospect: Prospect) -> _Seen:
        """Once for a group and a prompt: all phases of a flexible instance share it."""
        last_prospect, last_group, seen = self._last
        if last_prospect is prospect and last_group is group and seen is not None:
            return seen
        places = self._places.of(group)
        levels = [(num_tokens, places.of(holders)) for num_tokens, holders in prospect.held.levels]
        matched = np.zeros(len(group.instances), dtype=np.int64)
        for num_tokens, where in levels:
            matched[where] = num_tokens
        seen = _Seen(matched=matched, levels=levels, loads=self._load.of(group.instances))
        self._last = prospect, group, seen
        return seen

    def _costs(self, prospect: Prospect, seen: _Seen, phase: Phase) -> Costs:
        predictions, none = self._predictions, np.zeros(len(seen.matched))
        return Costs(
            compute_s=none if phase is Phase.DECODE else self._compute_s(prospect, seen),
            whole_s=prospect.whole_s,
            move_s=self._move_s(prospect, seen) if phase is Phase.DECODE else none,
            decode=predictions.decode,
            decode_pace=predictions.decoding.of(None),
            output_tokens=prospect.output_tokens,
            kv_capacity_tokens=predictions.kv_capacity_tokens,
        )

    def _compute_s(self, prospect: Prospect, seen: _Seen) -> Numbers:
        """Few lengths are held: each is predicted once, not once an instance."""
        if seen.compute_s is None:
            compute_s = np.empty(len(seen.matched))
            if not seen.all_hold_some:
                compute_s.fill(self._seconds(prospect, 0))
            for num_tokens, where in seen.levels:
                compute_s[where] = self._seconds(prospect, num_tokens)
            if prospect.is_spreading:
                compute_s.fill(compute_s.min())
            compute_s *= seen.loads.pace
            seen.compute_s = compute_s
        return seen.compute_s

    def _seconds(self, prospect: Prospect, held: int) -> float:
        """To compute what an instance lacks that holds so much, or to pull more if that is sooner; at a pace of 1."""
        prefill, total, most = self._predictions.prefill, max(prospect.asked.num_tokens, 1), prospect.source_tokens
        own_s = prefill.seconds(total, held / total)
        if prospect.source is None or held >= most:
            return own_s
        path_s = self._predictions.path.seconds((most - held) * prospect.bytes_per_token) * prospect.transfer_pace
        pull_s = (prospect.source_wait_s + path_s) / prospect.usual_pace
        return min(own_s, pull_s + prefill.seconds(total, most / total))

    def _move_s(self, prospect: Prospect, seen: _Seen) -> Numbers:
        """As `_compute_s`, of the path to an instance."""
        path, total, pace = self._predictions.path, prospect.asked.num_tokens, prospect.transfer_pace
        move_s = np.empty(len(seen.matched))
        move_s.fill(path.seconds(total * prospect.bytes_per_token) * pace)
        for num_tokens, where in seen.levels:
            move_s[where] = path.seconds((total - num_tokens) * prospect.bytes_per_token) * pace
        return move_s

    def _least_busy(self, holders: int) -> InstanceId:
        """Of a few drawn at random, which is as good as of all and costs less where all hold a prefix."""
        sources = self._slots.names(holders)
        if len(sources) == 1 or self._paths.are_free():
            return sources[int(self._random.random() * len(sources))]
        if len(sources) > _SOURCES_TRIED:
            sources = tuple(self._random.sample(sources, _SOURCES_TRIED))
        waits = [self._paths.wait_s(source) for source in sources]
        least = min(waits)
        equals = [source for source, wait_s in zip(sources, waits, strict=True) if wait_s == least]
        return equals[0] if len(equals) == 1 else equals[int(self._random.random() * len(equals))]

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

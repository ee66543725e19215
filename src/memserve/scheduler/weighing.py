"""Candidates weighed for one prompt: what each holds and has queued, what it would cost, its score.

Owns the numbers that policies see, and the choice among equals by the injected Random; nothing that lasts but how
often prefixes were asked for. What a heavy hitter costs to bring to a further instance is not counted against that
instance, as those that come after gain from it: so it spreads, in proportion to how often it is asked for and to no
more than MAX_REPLICAS instances, before its holders' queues are long.
"""

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
from memserve.scheduler.predictions import Predictions
from memserve.scheduler.places import AllPlaces
from memserve.scheduler.prefix_heat import PrefixHeat
from memserve.scheduler.slots import Slots
from memserve.scheduler.tokens import TOKEN_BYTES

MAX_REPLICAS = 16
"""A prefix that so many instances hold is brought to no further one ahead of need."""
HEAVY_HITTER = 4.0
"""Asked for as often within PrefixHeat's time by each instance that holds it, a prefix goes to a further one."""

_SOURCES_TRIED = 4


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
        equals = (scores == scores.min()).nonzero()[0]
        return int(equals[0] if len(equals) == 1 else equals[int(random.random() * len(equals))])

    def listed(self, chosen: int) -> tuple[Candidate, ...]:
        """The chosen one and after it the next best."""
        order = self.scores.argsort(kind="stable")[:MAX_CANDIDATES].tolist()
        if chosen in order:
            order.remove(chosen)
        kept = [chosen, *order[: MAX_CANDIDATES - 1]]
        columns = [column[kept].tolist() for column in (self.matched, self.queued, self.wait_s, self.scores)]
        instances, roles = self.group.instances, self.group.roles
        return tuple(
            Candidate(
                instance=instances[i],
                role=roles[i],
                phase=self.phase,
                matched_tokens=held,
                queued_tokens=int(queued),
                wait_s=wait_s,
                score=score,
            )
            for i, held, queued, wait_s, score in zip(kept, *columns, strict=True)
        )


class _Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to know of a group for one prompt, whatever the phase."""

    matched: npt.NDArray[np.int64]
    loads: InstanceLoads
    costs: Costs


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
    ) -> None:
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
        most, holders = longest(held.in_pools, self._places.of(givers).members)
        source = self._least_busy(holders) if holders else None
        return Prospect(
            asked=asked,
            may_split=bool(found.prefill.instances and found.whole.instances),
            held=held,
            source=source,
            source_wait_s=0.0 if source is None else self._paths.wait_s(source),
            source_tokens=most,
            bytes_per_token=found.bytes_per_token,
            is_spreading=self._is_spreading(asked, held, pullable=most),
            output_tokens=output_tokens,
        )

    def weigh(self, policy: Policy, group: Group, phase: Phase, prospect: Prospect) -> Weighed:
        """`group` must not be empty. Raises InvariantError for a policy that does not give each a score."""
        seen = self._seen(group, prospect)
        choice = Choice(
            phase=phase,
            may_split=prospect.may_split,
            prompt_tokens=prospect.asked.num_tokens,
            session=prospect.asked.session,
            instances=group.instances,
            matched=seen.matched,
            used=group.used,
            loads=seen.loads,
            costs=seen.costs,
        )
        scores = np.asarray(policy.scores(choice), dtype=np.float64)
        if scores.shape != seen.matched.shape:
            raise InvariantError(f"{policy!r} gave {scores.size} scores to {seen.matched.size} instances: one each")
        loads = seen.loads
        return Weighed(
            group=group, phase=phase, matched=seen.matched, queued=loads.tokens, wait_s=loads.prefill_s, scores=scores
        )

    def _seen(self, group: Group, prospect: Prospect) -> _Seen:
        """Once for a group and a prompt: all phases of a flexible instance share it."""
        last_prospect, last_group, seen = self._last
        if last_prospect is prospect and last_group is group and seen is not None:
            return seen
        loads = self._load.of(group.instances)
        seen = self._look_closely(group, prospect, loads)
        self._last = prospect, group, seen
        return seen

    def _look_closely(self, group: Group, prospect: Prospect, loads: InstanceLoads) -> _Seen:
        """Few lengths are held: each is predicted once, not once an instance."""
        predictions, levels, places = self._predictions, prospect.held.levels, self._places.of(group)
        usual = predictions.computing.of(None)
        count = len(group.instances)
        matched = np.zeros(count, dtype=np.int64)
        compute_s, move_s = np.empty(count), np.empty(count)
        compute_s.fill(self._compute_s(prospect, 0, usual))
        move_s.fill(self._move_s(prospect, 0))
        for num_tokens, holders in levels:
            where = places.of(holders)
            matched[where] = num_tokens
            compute_s[where] = self._compute_s(prospect, num_tokens, usual)
            move_s[where] = self._move_s(prospect, num_tokens)
        if prospect.is_spreading:
            compute_s.fill(compute_s.min())
        costs = Costs(
            compute_s=compute_s * (loads.pace / usual),
            whole_s=predictions.prefill.seconds(prospect.asked.num_tokens, 0.0) * usual,
            move_s=move_s,
            decode=predictions.decode,
            decode_pace=predictions.decoding.of(None),
            output_tokens=prospect.output_tokens,
            kv_capacity_tokens=predictions.kv_capacity_tokens,
        )
        return _Seen(matched=matched, loads=loads, costs=costs)

    def _compute_s(self, prospect: Prospect, held: int, pace: float) -> float:
        """On an instance of the usual pace that holds so much, or pulls more if that is sooner."""
        prefill, total, most = self._predictions.prefill, max(prospect.asked.num_tokens, 1), prospect.source_tokens
        own_s = prefill.seconds(total, held / total) * pace
        if prospect.source is None or held >= most:
            return own_s
        path_s = self._predictions.path.seconds((most - held) * prospect.bytes_per_token) * self._transfer_pace
        return min(own_s, prospect.source_wait_s + path_s + prefill.seconds(total, most / total) * pace)

    def _move_s(self, prospect: Prospect, held: int) -> float:
        lacking_bytes = (prospect.asked.num_tokens - held) * prospect.bytes_per_token
        return self._predictions.path.seconds(lacking_bytes) * self._transfer_pace

    @property
    def _transfer_pace(self) -> float:
        return self._predictions.transferring.of(None)

    def _least_busy(self, holders: int) -> InstanceId:
        """Of a few drawn at random, which is as good as of all and costs less where all hold a prefix."""
        sources = self._slots.names(holders)
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
        return pullable == most and num_holders < MAX_REPLICAS and heat >= HEAVY_HITTER * num_holders

    def __repr__(self) -> str:
        return f"Weigher({self._predictions}, {self._heat})"

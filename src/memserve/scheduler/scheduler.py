"""Global scheduler: picks the instances for each request, from what they hold and what they have queued.

Owns the prompt trees (one per role), the load ledger and what is in flight. Does no I/O and asks
nobody: it learns from what the instances announce and, before that arrives, from the responses that pass
through the gateway, as in arXiv 2406.17565. What a response told is believed for `ttl_s`, or only for
`confirm_s` when the instance announces what it holds.

    decide ──> sent ──> prefilled ──> finish       of one request; `finish` may come at any time and again
    admit ──> reset ──> apply ...                  of one instance that announces what it holds
    forget                                         of one instance, when it left or came back empty

A request served by one instance (no prefill instance, or a role has nobody left) goes the same way.
"""

from collections.abc import Sequence
from random import Random
from typing import Final

import msgspec

from memserve.cluster.view import ClusterView
from memserve.core.clock import Clock
from memserve.core.enums import CachingMode, Phase, Role
from memserve.core.ids import Incarnation, InstanceId, RequestId
from memserve.scheduler.chooser import Chooser
from memserve.scheduler.decision import Candidate, Decision, Forecast, Outcome, Placement, PullWeighing, placement
from memserve.scheduler.event_feeds import EventStats
from memserve.scheduler.flight import Asked, Flight, Place
from memserve.scheduler.forecast import forecast
from memserve.scheduler.holdings import Holdings
from memserve.scheduler.lessons import Lessons
from memserve.scheduler.load import LoadLedger
from memserve.scheduler.path_queues import PathQueues
from memserve.scheduler.planner import Plan
from memserve.scheduler.policies import PolicyKind, find_policy
from memserve.scheduler.predictions import Predictions
from memserve.scheduler.promises import Promises
from memserve.scheduler.prompt_tree import PromptTreeStats
from memserve.scheduler.prospect import Prospect
from memserve.scheduler.pull_policy import PullPolicy
from memserve.scheduler.slots import Slots
from memserve.scheduler.tokens import Tokens, token_bytes
from memserve.scheduler.weighing import MAX_REPLICAS, Weigher
from memserve.wire.events import Applied, EventBatch, SnapshotPart
from memserve.wire.identity import Namespace
from memserve.wire.messages import RequestReport


class SchedulerStats(msgspec.Struct, frozen=True, kw_only=True):
    policy: str
    num_in_flight: int
    trees: dict[Role, PromptTreeStats]
    queued_tokens: dict[InstanceId, int]
    """Instances with nothing queued are left out."""
    expected_output_tokens: float
    """Running mean of reported answer lengths; what a request is taken to produce."""


class Scheduler:
    """One per gateway; not shared between threads."""

    def __init__(
        self,
        *,
        block_size: int,
        policy: str,
        clock: Clock,
        random: Random,
        ttl_s: float = 600.0,
        confirm_s: float = 30.0,
        max_tree_blocks: int = 1_000_000,
        caching: CachingMode = CachingMode.RETURN,
        pulls: PullPolicy | None = None,
        max_replicas: int = MAX_REPLICAS,
    ) -> None:
        """`block_size` in tokens, `max_tree_blocks` per role. Raises ConfigError on an unknown policy.

        Without `pulls` no instance is ever told to pull what another one holds. What `max_replicas` instances hold is
        brought to no further one ahead of need.
        """
        self._decided: dict[str, dict[Placement, int]] = {}
        self._caching = caching
        slots = Slots()
        self.holdings: Final = Holdings(
            block_size=block_size,
            clock=clock,
            slots=slots,
            ttl_s=ttl_s,
            confirm_s=confirm_s,
            max_tree_blocks=max_tree_blocks,
        )
        """What is known of the instances."""
        self._pulls = pulls
        self._clock = clock
        self._load = LoadLedger(clock)
        self._paths = PathQueues(clock)
        self._predictions = pulls.predictions if pulls is not None else Predictions()
        weigher = Weigher(
            holdings=self.holdings,
            slots=slots,
            load=self._load,
            predictions=self._predictions,
            paths=self._paths,
            clock=clock,
            random=random,
            max_replicas=max_replicas,
        )
        self.chooser: Final = Chooser(
            weigher, policy=find_policy(policy), random=random, caching=caching, may_pull=pulls is not None
        )
        """Where a request would go, asked without sending it there."""
        self._flights: dict[RequestId, Flight] = {}
        self._promises = Promises(clock, confirm_s=confirm_s)
        self._lessons = Lessons(predictions=self._predictions, load=self._load, clock=clock)

    @property
    def policy(self) -> str:
        """By which requests are routed."""
        return self.chooser.policy

    def use(self, policy: PolicyKind) -> None:
        """Route by this policy from the next request on."""
        self.chooser.use(policy)

    def decide(
        self,
        *,
        request: RequestId,
        tokens: Tokens,
        namespace: Namespace = b"",
        view: ClusterView,
        exclude: frozenset[InstanceId] = frozenset(),
        alone: bool = False,
        session: str = "",
    ) -> Decision:
        """Where the request goes; its load counts from now on. Deciding again for it replaces the first decision.

        Who may compute, decode or do both follows from the roles; when a role has nobody left, any active instance
        may serve the whole request alone. With `alone` it is not split where anybody is meant for whole requests.
        Raises InstanceUnavailable when no instance is active, InvalidTokens on tokens that are none.
        """
        asked = Asked(data=token_bytes(tokens), namespace=namespace, session=session)
        if request in self._flights:
            self._forget_request(request)
        self._renew_promises()
        self._lessons.look_at_overruns(self._flights)
        prospect, made = self.chooser.choose(
            asked, view, output_tokens=self._lessons.output_tokens, exclude=exclude, alone=alone
        )
        pull = self._weigh_pull(prospect, made.first)
        source = pull.source if pull is not None and pull.is_worth_it else None
        held_tokens = made.first.matched_tokens
        if pull is not None and source is not None:
            held_tokens += pull.gained_tokens
        prefill_s = self._predictions.prefill.seconds(prospect.num_tokens, held_tokens / (prospect.num_tokens or 1))
        place = Place(instance=made.first.instance, role=made.first.role)
        self._enter(request, prospect, made, place, held_tokens=held_tokens, prefill_s=prefill_s)
        self._count(placement(made.decode, source))
        return Decision(
            request=request,
            epoch=view.epoch,
            policy=self.policy,
            prefill=made.first.instance if made.decode else None,
            decode=made.decode.instance if made.decode else made.first.instance,
            candidates=made.candidates,
            source=source,
            pull=pull,
            forecast=self._forecast(prospect, made, pull, prefill_s),
            tiers=self.holdings.tiers(place, asked, prospect.held, matched=made.first.matched_tokens),
        )

    def sent(self, request: RequestId) -> None:
        """The request is on its way to its instance, which is counted on to hold the prompt before long.

        So those that share the prompt and come before it is computed follow it, instead of having it computed
        once more elsewhere. The promise lasts while the request waits for its prefill. If nothing comes of it, it
        ends like any that nobody confirms, and cost a recomputation.
        """
        self._promise(request)

    def prefilled(self, request: RequestId) -> None:
        """The prompt is computed: its load goes, and the instance that computed it is known to hold it."""
        flight = self._flights.get(request)
        if flight is None or flight.prefilled:
            return
        self._flights[request] = msgspec.structs.replace(flight, prefilled=True)
        self._load.drop(request, Phase.PREFILL)
        if flight.first is None:
            return
        if self._caching is not CachingMode.BASIC:
            self.holdings.believe(flight.first, flight.asked.data, flight.asked.namespace)
        self._lessons.prefilled(flight)

    def finish(self, request: RequestId, *, outcome: Outcome, output_tokens: Sequence[int] = ()) -> None:
        """The request is over: its load goes. SERVED also tells what its instances now hold. Idempotent."""
        flight = self._flights.get(request)
        if flight is not None and outcome is Outcome.SERVED:
            self._learn(flight, output_tokens)
        self._forget_request(request)

    def answered(self, report: RequestReport) -> None:
        """Learn how long answers are from an instance that produced one, what its steps and moving blocks take."""
        self._lessons.answered(report)

    def admit(self, instance: InstanceId, incarnation: Incarnation, role: Role) -> None:
        """This incarnation will announce what it holds. What an older one held is forgotten; an older one ignored."""
        self.holdings.admit(instance, incarnation, role)

    def apply(self, batch: EventBatch) -> Applied:
        """Take announcements in. Never raises for what they say: what cannot be is counted, and left out."""
        return self.holdings.apply(batch)

    def reset(self, part: SnapshotPart) -> Applied:
        """Take in a part of all that an instance holds; the first part replaces what was known of it."""
        return self.holdings.reset(part)

    def decision_counts(self) -> dict[tuple[str, Placement], int]:
        """Decisions so far, by policy and by what became of the request."""
        return {
            (policy, placed): number for policy, numbers in self._decided.items() for placed, number in numbers.items()
        }

    def event_stats(self) -> EventStats:
        return self.holdings.event_stats()

    def forget(self, instance: InstanceId, incarnation: Incarnation | None = None) -> None:
        """The instance left or came back as a new incarnation: its entries and its load vanish.

        Entries that a newer incarnation than `incarnation` has announced stay; None is newer than all.
        """
        self.holdings.forget(instance, incarnation)
        self._load.forget(instance)
        self._paths.forget(instance)
        for request, flight in self._flights.items():
            self._flights[request] = flight.without(instance)

    def num_in_flight(self, instance: InstanceId) -> int:
        """Requests that still need this instance; one that has computed a prompt for another is done with it."""
        return sum(flight.needs(instance) for flight in self._flights.values())

    def stats(self) -> SchedulerStats:
        return SchedulerStats(
            policy=self.policy,
            num_in_flight=len(self._flights),
            trees=self.holdings.tree_stats(),
            queued_tokens=self._load.snapshot(),
            expected_output_tokens=self._lessons.output_tokens,
        )

    def __repr__(self) -> str:
        return f"Scheduler({self.policy}, {len(self._flights)} in flight, {self._load}, {self.holdings})"

    def _count(self, placed: Placement) -> None:
        numbers = self._decided.setdefault(self.policy, {})
        numbers[placed] = numbers.get(placed, 0) + 1

    def _weigh_pull(self, prospect: Prospect, first: Candidate) -> PullWeighing | None:
        """Whether `first` should pull from who holds most; None when that is nobody else."""
        if self._pulls is None or prospect.source_tokens <= first.matched_tokens:
            return None
        source = self.chooser.source(prospect)
        pull = self._pulls.weigh(
            target=first.instance,
            source=source,
            prompt_tokens=prospect.num_tokens,
            held_tokens=first.matched_tokens,
            source_tokens=prospect.source_tokens,
            bytes_per_token=prospect.bytes_per_token,
            queue_s=self._paths.wait_s(source, first.instance),
        )
        if pull.is_worth_it:
            self._paths.begin(source, first.instance, pull.transfer_s)
        else:
            self._pulls.declined(pull, first.instance)
        return pull

    def _forecast(self, prospect: Prospect, made: Plan, pull: PullWeighing | None, prefill_s: float) -> Forecast | None:
        if self._pulls is None:
            return None
        return forecast(
            first=made.first,
            decode=made.decode,
            pull=pull,
            prompt_tokens=prospect.num_tokens,
            prefill_s=prefill_s,
            bytes_per_token=prospect.bytes_per_token,
            predictions=self._predictions,
        )

    def _enter(
        self,
        request: RequestId,
        prospect: Prospect,
        made: Plan,
        place: Place,
        *,
        held_tokens: int,
        prefill_s: float,
    ) -> None:
        asked, first, decode = prospect.asked, made.first, made.decode
        output, total = round(self._lessons.output_tokens), prospect.num_tokens
        self._load.add(
            request=request,
            phase=Phase.PREFILL,
            instance=first.instance,
            num_tokens=total - held_tokens,
            seconds=prefill_s,
        )
        answers = first if decode is None else decode
        takes_in = 0 if decode is None else total - decode.matched_tokens
        self._load.add(
            request=request,
            phase=Phase.DECODE,
            instance=answers.instance,
            num_tokens=takes_in + output,
            context_tokens=total + output,
        )
        pulls_nothing = held_tokens == first.matched_tokens
        begins = pulls_nothing and first.queued_tokens == 0
        if begins:
            self._lessons.begun(request, prompt_tokens=total, held_tokens=held_tokens, prefill_s=prefill_s)
        self._flights[request] = Flight(
            asked=asked,
            first=place,
            decode=None if decode is None else Place(instance=decode.instance, role=decode.role),
            alone=decode is None,
            held_tokens=held_tokens,
            started=self._clock.now() if begins else None,
        )

    def _promise(self, request: RequestId, *, since: float | None = None) -> None:
        flight = self._flights.get(request)
        if flight is None or flight.first is None or flight.prefilled or self._caching is CachingMode.BASIC:
            return
        keep_s = self._promises.make(request, since=since)
        self.holdings.expect(flight.first, flight.asked.data, flight.asked.namespace, within_s=keep_s)

    def _renew_promises(self) -> None:
        for request, since in self._promises.due():
            self._promise(request, since=since)

    def _learn(self, flight: Flight, output_tokens: Sequence[int]) -> None:
        """The last output token was never fed back, so no instance holds its KV."""
        if self._caching is CachingMode.BASIC:
            return
        whole = flight.asked.data + token_bytes(output_tokens[:-1])
        if flight.first is not None:
            grew = flight.alone or self._caching is CachingMode.RETURN
            tokens = whole if grew else flight.asked.data
            self.holdings.believe(flight.first, tokens, flight.asked.namespace)
        if flight.decode is not None and self._caching is not CachingMode.PREFILL:
            self.holdings.believe(flight.decode, whole, flight.asked.namespace)

    def _forget_request(self, request: RequestId) -> None:
        self._flights.pop(request, None)
        self._load.drop_all(request)

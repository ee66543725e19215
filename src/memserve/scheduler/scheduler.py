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
from itertools import repeat
from random import Random

import msgspec

from memserve.cluster.view import ClusterView
from memserve.core.clock import Clock
from memserve.core.enums import CachingMode, Phase, Role
from memserve.core.errors import InstanceUnavailable
from memserve.core.ids import Incarnation, InstanceId, RequestId
from memserve.scheduler import policies
from memserve.scheduler.candidates import Candidates, Group, candidates, nobody
from memserve.scheduler.decision import MAX_CANDIDATES, Candidate, Decision, Outcome, PullWeighing
from memserve.scheduler.event_feeds import EventFeeds, EventStats
from memserve.scheduler.load import LoadLedger
from memserve.scheduler.policies import Choice, Policy
from memserve.scheduler.prompt_tree import PromptTree, PromptTreeStats
from memserve.scheduler.pull_policy import PullPolicy
from memserve.scheduler.tokens import TOKEN_BYTES, Tokens, token_bytes
from memserve.wire.events import Applied, EventBatch, SnapshotPart
from memserve.wire.identity import Namespace
from memserve.wire.messages import RequestReport

_FIRST_OUTPUT_GUESS = 128
_OUTPUT_MEMORY = 0.05
"""Weight of the newest answer in the running mean of answer lengths."""


class SchedulerStats(msgspec.Struct, frozen=True, kw_only=True):
    policy: str
    num_in_flight: int
    trees: dict[Role, PromptTreeStats]
    queued_tokens: dict[InstanceId, int]
    """Instances with nothing queued are left out."""
    expected_output_tokens: float
    """Running mean of reported answer lengths; what a request is taken to produce."""


class _Place(msgspec.Struct, frozen=True, kw_only=True):
    instance: InstanceId
    role: Role


class _Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt and where it belongs."""

    data: bytes
    namespace: Namespace
    session: str

    @property
    def num_tokens(self) -> int:
        return len(self.data) // TOKEN_BYTES


class _Weighed(msgspec.Struct, frozen=True, kw_only=True):
    """One group, weighed."""

    candidates: list[Candidate]
    holder: InstanceId | None = None
    """One of those that hold most of the prompt; None when nobody holds any, or pulls are not weighed."""
    held_tokens: int = 0


class _Flight(msgspec.Struct, frozen=True, kw_only=True):
    """A request between decide and finish; a place becomes None when its instance is forgotten."""

    tokens: bytes
    namespace: Namespace
    first: _Place | None
    """Where the prompt is computed."""
    decode: _Place | None
    """Where the answer is produced, if elsewhere."""
    alone: bool
    """One instance does both."""
    held_tokens: int
    """What the first instance has of the prompt without computing it, as far as is known."""
    started: float | None
    """When it was decided, in clock seconds; None when the first instance has to pull or to do something else."""
    prefilled: bool = False


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
    ) -> None:
        """`block_size` in tokens, `max_tree_blocks` per role. Raises ConfigError on an unknown policy.

        Without `pulls` no instance is ever told to pull what another one holds.
        """
        self._policy = policy
        self._random = random
        self._caching = caching
        self._first_policy, self._decode_policy = policies.policy(policy, random), policies.policy(policy, random)
        self._trees = {
            role: PromptTree(block_size=block_size, clock=clock, ttl_s=ttl_s, max_blocks=max_tree_blocks)
            for role in Role
        }
        self._feeds = EventFeeds(self._trees, block_size=block_size, clock=clock, max_lag_s=ttl_s)
        self._confirm_s = confirm_s
        self._pulls = pulls
        self._clock = clock
        self._load = LoadLedger()
        self._flights: dict[RequestId, _Flight] = {}
        self._expected_output = float(_FIRST_OUTPUT_GUESS)
        self._view: ClusterView | None = None
        self._everyone = Candidates(first=Group(), decode=Group())

    def decide(
        self,
        *,
        request: RequestId,
        tokens: Tokens,
        namespace: Namespace = b"",
        view: ClusterView,
        exclude: frozenset[InstanceId] = frozenset(),
        session: str = "",
    ) -> Decision:
        """Where the request goes; its load counts from now on. Deciding again for it replaces the first decision.

        Prefill and decode instances work as a pair; colocated ones compete with the pair's prefill half.
        When a role has nobody left, any active instance may serve the whole request alone.
        Raises InstanceUnavailable when no instance is active, InvalidTokens on tokens that are none.
        """
        data = token_bytes(tokens)
        self._forget_request(request)
        found = self._candidates(view, exclude)
        asked = _Asked(data=data, namespace=namespace, session=session)
        weighed = [self._weigh(self._first_policy, found.first, asked)]
        first, decode = weighed[0].candidates[0], None
        if first.role is Role.PREFILL and found.decode.instances:
            weighed.append(self._weigh(self._decode_policy, found.decode, asked))
            decode = weighed[1].candidates[0]
        pull = self._weigh_pull(asked, first, weighed, view)
        source = pull.source if pull is not None and pull.is_worth_it else None
        gained = pull.gained_tokens if pull is not None and source is not None else 0
        self._enter(request, asked, first, decode, held_tokens=first.matched_tokens + gained)
        return Decision(
            request=request,
            epoch=view.epoch,
            policy=self._policy,
            prefill=first.instance if decode else None,
            decode=decode.instance if decode else first.instance,
            candidates=tuple(candidate for group in weighed for candidate in group.candidates),
            source=source,
            pull=pull,
        )

    def sent(self, request: RequestId) -> None:
        """The request is on its way to its instance, which is counted on to hold the prompt before long.

        So those that share the prompt and come before it is computed follow it, instead of having it computed
        once more elsewhere. If nothing comes of it, the promise ends like any that nobody confirms, and cost a
        recomputation.
        """
        flight = self._flights.get(request)
        if flight is not None and flight.first is not None and self._caching is not CachingMode.BASIC:
            self._believe(flight.first, flight.tokens, flight.namespace)

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
            self._believe(flight.first, flight.tokens, flight.namespace)
        if self._pulls is not None and flight.started is not None:
            self._pulls.prefilled(
                flight.first.instance,
                prompt_tokens=len(flight.tokens) // TOKEN_BYTES,
                held_tokens=flight.held_tokens,
                seconds=self._clock.now() - flight.started,
            )

    def finish(self, request: RequestId, *, outcome: Outcome, output_tokens: Sequence[int] = ()) -> None:
        """The request is over: its load goes. SERVED also tells what its instances now hold. Idempotent."""
        flight = self._flights.get(request)
        if flight is not None and outcome is Outcome.SERVED:
            self._learn(flight, output_tokens)
        self._forget_request(request)

    def answered(self, report: RequestReport) -> None:
        """Learn how long answers are from an instance that produced one, and what moving blocks takes."""
        if self._pulls is not None:
            for moved in report.moved:
                self._pulls.moved(moved)
        if report.phase is not Phase.PREFILL and report.output_tokens > 0:
            self._expected_output += _OUTPUT_MEMORY * (report.output_tokens - self._expected_output)

    def admit(self, instance: InstanceId, incarnation: Incarnation, role: Role) -> None:
        """This incarnation will announce what it holds. What an older one held is forgotten; an older one ignored."""
        self._feeds.admit(instance, incarnation, role)

    def apply(self, batch: EventBatch) -> Applied:
        """Take announcements in. Never raises for what they say: what cannot be is counted, and left out."""
        return self._feeds.apply(batch)

    def reset(self, part: SnapshotPart) -> Applied:
        """Take in a part of all that an instance holds; the first part replaces what was known of it."""
        return self._feeds.reset(part)

    def event_stats(self) -> EventStats:
        return self._feeds.stats()

    def forget(self, instance: InstanceId, incarnation: Incarnation | None = None) -> None:
        """The instance left or came back as a new incarnation: its entries and its load vanish.

        Entries that a newer incarnation than `incarnation` has announced stay; None is newer than all.
        """
        if self._feeds.forget(instance, incarnation):
            for tree in self._trees.values():
                tree.forget(instance)
        self._load.forget(instance)
        for request, flight in self._flights.items():
            first = _unless(flight.first, instance)
            decode = _unless(flight.decode, instance)
            if (first, decode) != (flight.first, flight.decode):
                self._flights[request] = msgspec.structs.replace(flight, first=first, decode=decode)

    def stats(self) -> SchedulerStats:
        return SchedulerStats(
            policy=self._policy,
            num_in_flight=len(self._flights),
            trees={role: tree.stats() for role, tree in self._trees.items()},
            queued_tokens=self._load.snapshot(),
            expected_output_tokens=self._expected_output,
        )

    def __repr__(self) -> str:
        return f"Scheduler({self._policy}, {len(self._flights)} in flight, {self._load}, {self._trees})"

    def _candidates(self, view: ClusterView, exclude: frozenset[InstanceId]) -> Candidates:
        if view is not self._view:
            self._view, self._everyone = view, candidates(view)
        found = candidates(view, exclude) if exclude else self._everyone
        if not found.first.instances:
            raise InstanceUnavailable(nobody(view, exclude))
        return found

    def _weigh(self, by: Policy, group: Group, asked: _Asked) -> _Weighed:
        """The chosen one, one of the best at random, and after it the next best."""
        role, *others = group.kinds
        held = self._trees[role].match(asked.data, asked.namespace)
        for role in others:
            held.update(self._trees[role].match(asked.data, asked.namespace))
        matched = [*map(held.get, group.instances, repeat(0))]
        queued = self._load.queued(group.instances)
        choice = Choice(
            prompt_tokens=asked.num_tokens,
            session=asked.session,
            instances=group.instances,
            matched=matched,
            queued=queued,
        )
        scores = by.scores(choice)
        order = sorted(range(len(scores)), key=scores.__getitem__)
        best = order.pop(int(self._random.random() * scores.count(scores[order[0]])))
        most = max(matched) if self._pulls is not None else 0
        holder = group.instances[best] if most else None
        if most > matched[best]:
            holder = self._random.choice([i for i, m in zip(group.instances, matched, strict=True) if m == most])
        chosen = [
            Candidate(
                instance=group.instances[i],
                role=group.roles[i],
                matched_tokens=matched[i],
                queued_tokens=queued[i],
                score=scores[i],
            )
            for i in (best, *order[: MAX_CANDIDATES - 1])
        ]
        return _Weighed(candidates=chosen, holder=holder, held_tokens=most)

    def _weigh_pull(
        self, asked: _Asked, first: Candidate, weighed: list[_Weighed], view: ClusterView
    ) -> PullWeighing | None:
        """Whether `first` should pull from who holds most; None when that is nobody else.

        KV of decode instances comes back in PD-Caching-3 only: the other milestones leave it where it is.
        """
        groups = weighed if self._caching is CachingMode.RETURN else weighed[:1]
        most = max(groups, key=lambda group: group.held_tokens)
        if self._pulls is None or most.holder is None or most.held_tokens <= first.matched_tokens:
            return None
        source = view.find(most.holder)
        if source is None or self._caching is CachingMode.BASIC:
            return None
        identity = source.peer.identity
        pull = self._pulls.weigh(
            target=first.instance,
            source=most.holder,
            prompt_tokens=asked.num_tokens,
            held_tokens=first.matched_tokens,
            source_tokens=most.held_tokens,
            bytes_per_token=identity.block_bytes / identity.block_size,
        )
        if not pull.is_worth_it:
            self._pulls.declined(pull, first.instance)
        return pull

    def _enter(
        self, request: RequestId, asked: _Asked, first: Candidate, decode: Candidate | None, *, held_tokens: int
    ) -> None:
        add, output = self._load.add, round(self._expected_output)
        lacks = asked.num_tokens - held_tokens
        pulls_nothing = held_tokens == first.matched_tokens
        add(request=request, phase=Phase.PREFILL, instance=first.instance, num_tokens=lacks)
        if decode is None:
            add(request=request, phase=Phase.DECODE, instance=first.instance, num_tokens=output)
        else:
            takes_in = asked.num_tokens - decode.matched_tokens
            add(request=request, phase=Phase.DECODE, instance=decode.instance, num_tokens=takes_in + output)
        self._flights[request] = _Flight(
            tokens=asked.data,
            namespace=asked.namespace,
            first=_Place(instance=first.instance, role=first.role),
            decode=None if decode is None else _Place(instance=decode.instance, role=decode.role),
            alone=decode is None,
            held_tokens=held_tokens,
            started=self._clock.now() if pulls_nothing and first.queued_tokens == 0 else None,
        )

    def _learn(self, flight: _Flight, output_tokens: Sequence[int]) -> None:
        """The last output token was never fed back, so no instance holds its KV."""
        if self._caching is CachingMode.BASIC:
            return
        whole = flight.tokens + token_bytes(output_tokens[:-1])
        if flight.first is not None:
            grew = flight.alone or self._caching is CachingMode.RETURN
            tokens = whole if grew else flight.tokens
            self._believe(flight.first, tokens, flight.namespace)
        if flight.decode is not None and self._caching is not CachingMode.PREFILL:
            self._believe(flight.decode, whole, flight.namespace)

    def _believe(self, place: _Place, tokens: bytes, namespace: Namespace) -> None:
        """A response says so; an instance that announces what it holds will confirm it soon, or it is not so."""
        keep_s = self._confirm_s if self._feeds.is_followed(place.instance) else None
        self._trees[place.role].insert(place.instance, tokens, namespace, keep_s=keep_s)

    def _forget_request(self, request: RequestId) -> None:
        self._flights.pop(request, None)
        self._load.drop_all(request)


def _unless(place: _Place | None, instance: InstanceId) -> _Place | None:
    return None if place is not None and place.instance == instance else place

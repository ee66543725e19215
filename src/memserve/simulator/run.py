"""A trace played against the real scheduler and a number of modelled instances, event by event.

Owns the order of events. What the scheduler decides is done as in a cluster of the caching mode asked for:

    decide ──> [pull: source ──> who computes] ──> whole ─────────────────────────────> finish
                                               └─> prefill ──> hand over ──> decode ──> finish, answer goes back

Who caches keeps what it has computed, received or produced; the answer goes back in mode `return` only. A request
that goes on from another one's answer comes when that is complete and has been thought about.

Time is a manual clock; the same trace, settings and seed give the same run, but for `decide_p50_us`, which is
measured on the machine that simulates.
"""

from collections.abc import Callable, Sequence
from functools import partial
from heapq import heappop, heappush
from itertools import count
from math import inf

from memserve.cluster.view import ClusterView, InstanceView
from memserve.core.clock import Clock, ManualClock, SystemClock
from memserve.core.enums import CachingMode, Phase, Role
from memserve.core.ids import InstanceId, RequestId
from memserve.scheduler.cost_model import CostModel
from memserve.scheduler.decision import Decision, Outcome
from memserve.simulator.engine import Finished, FirstToken, Happened, ModelledInstance, Prefilled, Task
from memserve.simulator.links import PEER, Links
from memserve.simulator.offloads import Offloads
from memserve.simulator.pool import PromptPool, expanded
from memserve.simulator.result import SimulationResult, Tally
from memserve.simulator.scheduling import new_scheduler
from memserve.simulator.setting import (
    INCARNATION,
    MEMORY_INSTANCE,
    Setting,
    check_setting,
    cluster_view,
    keeps_kv,
)
from memserve.simulator.trace import Trace, TraceRequest
from memserve.wire.events import EventBatch, SnapshotPart
from memserve.wire.messages import MovedBlocks, RequestReport

PULL_WAIT_S = 2.0
"""A request waits this long for KV that is pulled for it, as in engines/vllm; what comes later is kept all the same."""

_LANDS, _WAKES, _LOOKS = 0, 1, 2
"""What arrives at a moment is there for what begins at that moment."""


class Onlooker:
    """Is told what becomes of each request; a subclass overrides what it wants to hear."""

    def came(self, request: RequestId) -> None:
        """It arrives now."""

    def first_token(self, request: RequestId) -> None:
        """Its first token is out."""

    def finished(self, request: RequestId, *, num_tokens: int) -> None:
        """Its last one is, after so many."""


class Simulation:
    """One run from the first request to the last answer: make it, call `run` once.

    Meanwhile `repeat` lets an owner look in, who may give it another view of its cluster (`become`).
    """

    def __init__(self, trace: Trace, setting: Setting, *, stopwatch: Clock | None = None) -> None:
        """Raises ConfigError for an unknown policy or a request that fits on no instance."""
        check_setting(trace, setting)
        self._trace = trace
        self._setting = setting
        self._stopwatch = stopwatch or SystemClock()
        self._clock = ManualClock()
        self._cost = CostModel(setting.profile)
        self._scheduler = new_scheduler(setting, self._clock, block_tokens=trace.block_tokens)
        self._onlooker = Onlooker()
        self._view = ClusterView()
        self._instances: dict[InstanceId, ModelledInstance] = {}
        self._links = Links(self._cost, memory=MEMORY_INSTANCE)
        self._due: list[tuple[float, int, int, Callable[[], None]]] = []
        self._order = count()
        self._woken: dict[InstanceId, float] = {}
        self._decisions: dict[int, Decision] = {}
        self._followers = _followers(trace)
        self._num_to_come = len(trace.requests)
        self._tally = Tally(len(trace.requests))
        self._offloads: Offloads | None = None
        self.become(cluster_view(setting, block_tokens=trace.block_tokens))
        if MEMORY_INSTANCE in self._instances:
            self._offloads = Offloads(self._instances[MEMORY_INSTANCE], send=self._give, announce=self._announce)

    def __repr__(self) -> str:
        return f"Simulation({self._trace.name}, {self._setting.policy} over {self._setting.instances} instances)"

    def run(self) -> SimulationResult:
        for number, request in enumerate(self._trace.requests):
            at_s = request.at_s / self._setting.speed
            self._work_until(at_s)
            self._move_to(at_s)
            if request.after is None:
                self._arrive(number, request)
        self._work_until(inf)
        serving = [instance for name, instance in self._instances.items() if name != MEMORY_INSTANCE]
        return self._tally.result(self._trace, self._setting, serving)

    # ------------------------------------------------------------ the owner's side

    @property
    def clock(self) -> Clock:
        """Of the run; starts at 0."""
        return self._clock

    @property
    def view(self) -> ClusterView:
        return self._view

    @property
    def times(self) -> Tally:
        """So far."""
        return self._tally

    def watch(self, onlooker: Onlooker) -> None:
        """From now on this one is told."""
        self._onlooker = onlooker

    def num_in_flight(self, instance: InstanceId) -> int:
        """Requests that still need this instance."""
        return self._scheduler.num_in_flight(instance)

    def repeat(self, every_s: float, act: Callable[[], None]) -> None:
        """Call it so often until the last request is finished."""
        act()
        if self._num_to_come or self._decisions:
            self._at(self._clock.now() + every_s, _LOOKS, partial(self.repeat, every_s, act))

    def become(self, view: ClusterView) -> None:
        """The cluster is this from now on. Who is new starts empty and tells what it holds; who is gone finishes
        what it has and is asked no more."""
        roles = {member.instance: member.role for member in self._view.instances}
        for member in view.instances:
            if roles.pop(member.instance, None) is not member.role:
                self._follow(member)
        for gone in roles:
            self._scheduler.forget(gone)
        self._view = view

    def _follow(self, view: InstanceView) -> None:
        name = view.instance
        self._scheduler.admit(name, INCARNATION, view.role)
        if name not in self._instances:
            self._instances[name] = self._instance(view)
            self._woken[name] = inf
            self._scheduler.reset(
                SnapshotPart(instance=name, incarnation=INCARNATION, seq=0, entries=(), is_first=True, is_last=True)
            )

    def _instance(self, view: InstanceView) -> ModelledInstance:
        setting, trace = self._setting, self._trace
        enough = setting.pool_blocks or trace.num_distinct_blocks
        own = setting.memory_blocks if view.role is Role.MEMORY else enough
        pool = PromptPool(
            num_blocks=own if keeps_kv(view.role, setting.caching) else 0,
            eviction=setting.eviction,
            clock=self._clock,
            block_tokens=trace.block_tokens,
        )
        return ModelledInstance(instance=view.instance, cost=self._cost, pool=pool)

    # ------------------------------------------------------------ one request

    def _arrive(self, number: int, request: TraceRequest) -> None:
        self._tally.arrived_s[number] = self._clock.now()
        tokens = expanded(request.blocks, self._trace.block_tokens)
        before = self._stopwatch.now()
        decision = self._scheduler.decide(request=_id(number), tokens=tokens, view=self._view, session=request.session)
        self._tally.decide_s.append(self._stopwatch.now() - before)
        self._scheduler.sent(decision.request)
        self._decisions[number] = decision
        self._num_to_come -= 1
        self._onlooker.came(decision.request)
        instance = self._instances[decision.prefill or decision.decode]
        self._tally.num_splits += decision.prefill is not None
        task = Task(
            number=number,
            request=request,
            phase=Phase.WHOLE if decision.prefill is None else Phase.PREFILL,
            ready_at=self._pull(number, request, decision, instance),
        )
        self._accept(task, instance)

    def _pull(self, number: int, request: TraceRequest, decision: Decision, target: ModelledInstance) -> float:
        """Have the source send what it holds beyond the target; when the request need not wait for it any more."""
        now = self._clock.now()
        if decision.source is None:
            return now
        source = self._instances[decision.source]
        held, lacking = source.pool.fetch(request.blocks), target.pool.fetch(request.blocks)
        if held <= lacking:
            return now
        num_bytes = (held - lacking) * self._block_bytes
        lands_at = self._send(source, target, num_bytes, request.blocks[:held], number=number)
        self._tally.num_pulls += 1
        return min(lands_at, now + PULL_WAIT_S)

    def _hand_over(self, number: int, prefill: ModelledInstance) -> None:
        """To the decode instance, what it lacks; it loads all of the prompt from its pool then."""
        request, decode = self._trace.requests[number], self._instances[self._decisions[number].decode]
        held = min(decode.pool.fetch(request.blocks) * self._trace.block_tokens, request.prompt_tokens)
        per_token = self._setting.profile.kv_bytes_per_token
        num_bytes = (request.prompt_tokens - held) * per_token
        lands_at = self._send(prefill, decode, num_bytes, request.blocks, number=number)
        self._at(lands_at, _LANDS, partial(self._release, number, prefill))
        load_s = self._cost.transfer_s(request.prompt_tokens * per_token, "dram")
        task = Task(number=number, request=request, phase=Phase.DECODE)
        self._at(lands_at + load_s, _LANDS, partial(self._accept, task, decode))

    def _send(
        self,
        source: ModelledInstance,
        target: ModelledInstance,
        num_bytes: float,
        blocks: Sequence[int],
        *,
        number: int,
    ) -> float:
        """When the bytes are there; from then on the target holds these blocks."""
        now = self._clock.now()
        lands_at = self._links.send(source=source.instance, target=target.instance, num_bytes=num_bytes, at_s=now)
        self._tally.moved_bytes += num_bytes
        moved = MovedBlocks(
            source=source.instance,
            target=target.instance,
            path=PEER,
            num_blocks=len(blocks),
            num_tokens=0,
            num_bytes=round(num_bytes),
            num_calls=1,
            seconds=self._links.seconds(source=source.instance, target=target.instance, num_bytes=num_bytes),
        )
        self._at(lands_at, _LANDS, partial(self._landed, target, tuple(blocks), number, moved))
        return lands_at

    def _give(
        self, source: ModelledInstance, memory: ModelledInstance, num_blocks: int, then: Callable[[], None]
    ) -> None:
        num_bytes = num_blocks * self._block_bytes
        self._tally.moved_bytes += num_bytes
        now = self._clock.now()
        at_s = self._links.send(source=source.instance, target=memory.instance, num_bytes=num_bytes, at_s=now)
        self._at(at_s, _LANDS, then)

    # ------------------------------------------------------------ what happens later

    def _landed(self, target: ModelledInstance, blocks: tuple[int, ...], number: int, moved: MovedBlocks) -> None:
        target.pool.store(blocks)
        self._announce(target)
        self._scheduler.answered(_report(number, target.instance, Phase.PREFILL, moved=(moved,)))

    def _release(self, number: int, prefill: ModelledInstance) -> None:
        prefill.release(number, at_s=self._clock.now())
        self._note((), prefill)

    def _accept(self, task: Task, instance: ModelledInstance) -> None:
        instance.accept(task, at_s=self._clock.now())
        self._note((), instance)

    def _advance(self, instance: ModelledInstance) -> None:
        self._woken[instance.instance] = inf
        self._note(instance.advance(self._clock.now()), instance)

    def _note(self, happened: Sequence[Happened], instance: ModelledInstance) -> None:
        for fact in happened:
            match fact:
                case Prefilled():
                    self._tally.hit_blocks += fact.hit_blocks
                    self._scheduler.prefilled(_id(fact.number))
                    if self._decisions[fact.number].prefill is not None:
                        self._hand_over(fact.number, instance)
                case FirstToken():
                    self._tally.first_token_s[fact.number] = fact.at_s
                    self._onlooker.first_token(_id(fact.number))
                case Finished():
                    self._finish(fact, instance)
        self._announce(instance)
        if instance.next_at < self._woken[instance.instance]:
            self._woken[instance.instance] = instance.next_at
            self._at(instance.next_at, _WAKES, partial(self._advance, instance))

    def _finish(self, fact: Finished, instance: ModelledInstance) -> None:
        self._tally.done_s[fact.number] = fact.at_s
        request, decision = self._trace.requests[fact.number], self._decisions.pop(fact.number)
        is_split = decision.prefill is not None
        phase = Phase.DECODE if is_split else Phase.WHOLE
        self._scheduler.answered(_report(fact.number, instance.instance, phase, output_tokens=request.output_tokens))
        self._scheduler.finish(_id(fact.number), outcome=Outcome.SERVED)
        self._onlooker.finished(_id(fact.number), num_tokens=request.output_tokens)
        if decision.prefill is not None and request.afterwards and self._setting.caching is CachingMode.RETURN:
            back = self._instances[decision.prefill]
            num_new = len(request.afterwards) - request.prompt_tokens // self._trace.block_tokens
            self._send(instance, back, num_new * self._block_bytes, request.afterwards, number=fact.number)
        self._let_follow(fact.number)

    def _let_follow(self, number: int) -> None:
        for follower in self._followers.pop(number, ()):
            request = self._trace.requests[follower]
            at_s = max(request.at_s / self._setting.speed, self._clock.now() + request.think_s)
            self._at(at_s, _WAKES, partial(self._arrive, follower, request))

    @property
    def _block_bytes(self) -> int:
        return self._trace.block_tokens * self._setting.profile.kv_bytes_per_token

    def _announce(self, instance: ModelledInstance) -> None:
        events = instance.pool.take_events()
        if events:
            self._scheduler.apply(
                EventBatch(instance=instance.instance, incarnation=INCARNATION, events=events, as_of=self._clock.now())
            )
        if self._offloads is not None:
            self._offloads.look(instance)

    # ------------------------------------------------------------ time

    def _at(self, at_s: float, kind: int, act: Callable[[], None]) -> None:
        heappush(self._due, (at_s, kind, next(self._order), act))

    def _work_until(self, at_s: float) -> None:
        while self._due and self._due[0][0] <= at_s:
            due, _, _, act = heappop(self._due)
            self._move_to(due)
            act()

    def _move_to(self, at_s: float) -> None:
        self._clock.advance(max(at_s - self._clock.now(), 0.0))


def _followers(trace: Trace) -> dict[int, list[int]]:
    """Places of the requests that go on from each answer."""
    followers: dict[int, list[int]] = {}
    for number, request in enumerate(trace.requests):
        if request.after is not None:
            followers.setdefault(request.after, []).append(number)
    return followers


def _id(number: int) -> RequestId:
    return RequestId(str(number))


def _report(
    number: int,
    instance: InstanceId,
    phase: Phase,
    *,
    output_tokens: int = 0,
    moved: tuple[MovedBlocks, ...] = (),
) -> RequestReport:
    return RequestReport(
        request=_id(number),
        instance=instance,
        phase=phase,
        prompt_tokens=0,
        hbm_tokens=0,
        dram_tokens=0,
        received_tokens=0,
        computed_tokens=0,
        output_tokens=output_tokens,
        moved=moved,
    )

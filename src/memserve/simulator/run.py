"""A trace played against the real scheduler and a number of modelled instances, event by event.

Owns the order of events and the figures of a run. Time is a manual clock; the same trace, settings and seed give
the same run, but for `decide_p50_us`, which is measured on the machine that simulates.
"""

from heapq import heappop, heappush
from math import inf
from random import Random

import msgspec
import numpy as np

from memserve.cluster.view import ClusterView, InstanceState, InstanceView
from memserve.core.clock import Clock, ManualClock, SystemClock
from memserve.core.enums import Phase, Role
from memserve.core.errors import ConfigError
from memserve.core.ids import Epoch, Incarnation, InstanceId, RequestId
from memserve.pool.eviction import eviction_policy
from memserve.scheduler.cost_model import CostModel, CostProfile
from memserve.scheduler.decision import Outcome
from memserve.scheduler.policies import find_policy
from memserve.scheduler.scheduler import Scheduler
from memserve.simulator.engine import Finished, ModelledInstance, Prefilled
from memserve.simulator.pool import PromptPool, expanded
from memserve.simulator.trace import BLOCK_TOKENS, Trace, TraceRequest, ideal_hit_ratio
from memserve.wire.events import EventBatch, SnapshotPart
from memserve.wire.identity import KvIdentity
from memserve.wire.messages import Load, PeerInfo, RequestReport

_INCARNATION = Incarnation(1)


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One run."""

    policy: str
    instances: int
    profile: CostProfile
    pool_blocks: int | None = None
    """Of each instance, blocks of 512 tokens; None: so many that nothing is evicted."""
    eviction: str = "lru"
    ttl_s: float = 600.0
    """How long the scheduler believes what it was not told again."""
    confirm_s: float = 30.0
    """How long it believes what it sent there, until the instance's own events confirm it."""
    speed: float = 1.0
    """Requests come this many times as fast as in the trace."""
    seed: int = 0


class SimulationResult(msgspec.Struct, frozen=True, kw_only=True):
    policy: str
    instances: int
    hit_ratio: float
    """Share of all prompt blocks that the instance in charge held."""
    ideal_hit_ratio: float
    """The same with one endless cache for everyone."""
    ttft_avg_s: float
    ttft_p99_s: float
    jct_avg_s: float
    jct_p99_s: float
    load_max_over_mean: float
    """Of the time that an instance computes, over the whole trace."""
    decide_p50_us: float
    utilisation: float
    """Mean share of the time to the last answer in which an instance computes."""
    requests: int


class Simulation:
    """One run from the first request to the last answer: make it, call `run` once."""

    def __init__(self, trace: Trace, setting: Setting, *, stopwatch: Clock | None = None) -> None:
        """Raises ConfigError for an unknown policy or a request that fits on no instance."""
        check_setting(trace, setting)
        self._trace = trace
        self._setting = setting
        self._stopwatch = stopwatch or SystemClock()
        self._clock = ManualClock()
        self._scheduler = Scheduler(
            block_size=BLOCK_TOKENS,
            policy=setting.policy,
            clock=self._clock,
            random=Random(setting.seed),  # noqa: S311 - chooses among equals, keeps no secret
            ttl_s=setting.ttl_s,
            confirm_s=setting.confirm_s,
        )
        self._view = _view(setting)
        self._follow()
        self._instances = {view.instance: self._instance(view.instance) for view in self._view.instances}
        self._wakes: list[tuple[float, InstanceId]] = []
        self._first_token_s = np.zeros(len(trace.requests))
        self._done_s = np.zeros(len(trace.requests))
        self._decide_s: list[float] = []
        self._hit_blocks = 0

    def __repr__(self) -> str:
        return f"Simulation({self._trace.name}, {self._setting.policy} over {self._setting.instances} instances)"

    def run(self) -> SimulationResult:
        for number, request in enumerate(self._trace.requests):
            at_s = request.at_s / self._setting.speed
            self._work_until(at_s)
            self._move_to(at_s)
            self._arrive(number, request)
        self._work_until(inf)
        return self._result()

    def _follow(self) -> None:
        """Every instance starts empty and tells what it holds from then on."""
        for view in self._view.instances:
            self._scheduler.admit(view.instance, _INCARNATION, view.role)
            self._scheduler.reset(
                SnapshotPart(
                    instance=view.instance, incarnation=_INCARNATION, seq=0, entries=(), is_first=True, is_last=True
                )
            )

    def _instance(self, instance: InstanceId) -> ModelledInstance:
        setting = self._setting
        enough = self._trace.num_distinct_blocks
        pool = PromptPool(num_blocks=setting.pool_blocks or enough, eviction=setting.eviction, clock=self._clock)
        return ModelledInstance(instance=instance, cost=CostModel(setting.profile), pool=pool)

    def _arrive(self, number: int, request: TraceRequest) -> None:
        tokens = expanded(request.blocks)
        before = self._stopwatch.now()
        decision = self._scheduler.decide(request=_id(number), tokens=tokens, view=self._view, session=request.session)
        self._decide_s.append(self._stopwatch.now() - before)
        self._scheduler.sent(decision.request)
        instance = self._instances[decision.decode]
        instance.accept(number, request, at_s=self._clock.now())
        self._wake(instance)

    def _work_until(self, at_s: float) -> None:
        while self._wakes and self._wakes[0][0] <= at_s:
            due, name = heappop(self._wakes)
            instance = self._instances[name]
            self._move_to(due)
            happened = instance.advance(due)
            for fact in happened:
                self._note(fact, name)
            self._announce(instance)
            if happened:
                self._wake(instance)

    def _note(self, fact: Prefilled | Finished, instance: InstanceId) -> None:
        if isinstance(fact, Prefilled):
            self._first_token_s[fact.number] = fact.at_s
            self._hit_blocks += fact.hit_blocks
            self._scheduler.prefilled(_id(fact.number))
            return
        self._done_s[fact.number] = fact.at_s
        request = self._trace.requests[fact.number]
        self._scheduler.answered(_report(fact.number, request, instance))
        self._scheduler.finish(_id(fact.number), outcome=Outcome.SERVED)

    def _announce(self, instance: ModelledInstance) -> None:
        events = instance.pool.take_events()
        if events:
            self._scheduler.apply(
                EventBatch(instance=instance.instance, incarnation=_INCARNATION, events=events, as_of=self._clock.now())
            )

    def _wake(self, instance: ModelledInstance) -> None:
        if instance.next_at < inf:
            heappush(self._wakes, (instance.next_at, instance.instance))

    def _move_to(self, at_s: float) -> None:
        self._clock.advance(max(at_s - self._clock.now(), 0.0))

    def _result(self) -> SimulationResult:
        arrived = np.array([request.at_s for request in self._trace.requests]) / self._setting.speed
        ttft, jct = self._first_token_s - arrived, self._done_s - arrived
        busy = np.array([instance.busy_s for instance in self._instances.values()])
        return SimulationResult(
            policy=self._setting.policy,
            instances=self._setting.instances,
            hit_ratio=self._hit_blocks / self._trace.num_blocks,
            ideal_hit_ratio=ideal_hit_ratio(self._trace),
            ttft_avg_s=float(ttft.mean()),
            ttft_p99_s=float(np.quantile(ttft, 0.99)),
            jct_avg_s=float(jct.mean()),
            jct_p99_s=float(np.quantile(jct, 0.99)),
            load_max_over_mean=float(busy.max() / busy.mean()),
            decide_p50_us=float(np.median(self._decide_s)) * 1e6,
            utilisation=float(busy.mean() / self._done_s.max()),
            requests=len(self._trace.requests),
        )


def check_setting(trace: Trace, setting: Setting) -> None:
    """Raises ConfigError, with the numbers, for a run that cannot be."""
    find_policy(setting.policy)
    eviction_policy(setting.eviction)
    if setting.instances < 1 or min(setting.speed, setting.ttl_s, setting.confirm_s) <= 0:
        raise ConfigError(
            f"{setting.instances} instances at speed {setting.speed} with a TTL of {setting.ttl_s} s "
            f"and {setting.confirm_s} s to confirm: give at least 1 instance and the others above 0"
        )
    if setting.pool_blocks is not None and setting.pool_blocks < 1:
        raise ConfigError(f"a pool of {setting.pool_blocks} blocks holds nothing: give at least 1")
    longest = max(request.prompt_tokens + request.output_tokens for request in trace.requests)
    capacity = setting.profile.kv_capacity_tokens
    if longest > capacity:
        raise ConfigError(
            f"the longest request of {trace.name} has {longest} tokens and an instance of "
            f"{setting.profile.identity.machine} holds the KV of {capacity}: choose another profile or a shorter trace"
        )


def _id(number: int) -> RequestId:
    return RequestId(str(number))


def _report(number: int, request: TraceRequest, instance: InstanceId) -> RequestReport:
    return RequestReport(
        request=_id(number),
        instance=instance,
        phase=Phase.WHOLE,
        prompt_tokens=request.prompt_tokens,
        hbm_tokens=0,
        dram_tokens=0,
        received_tokens=0,
        computed_tokens=request.prompt_tokens,
        output_tokens=request.output_tokens,
    )


def _view(setting: Setting) -> ClusterView:
    profile = setting.profile
    identity = KvIdentity(
        model=profile.identity.model,
        dtype="modelled",
        engine=profile.identity.engine,
        backend="modelled",
        block_size=BLOCK_TOKENS,
        block_bytes=BLOCK_TOKENS * profile.kv_bytes_per_token,
        num_layers=1,
    )
    names = [InstanceId(f"i{number}") for number in range(setting.instances)]
    peers = [PeerInfo(instance=n, incarnation=_INCARNATION, endpoint="modelled", identity=identity) for n in names]
    return ClusterView(
        epoch=Epoch(1),
        instances=tuple(
            InstanceView(peer=peer, role=Role.COLOCATED, url="modelled", state=InstanceState.ACTIVE, load=Load())
            for peer in peers
        ),
    )

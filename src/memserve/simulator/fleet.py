"""A simulated cluster whose size changes while requests come: by an autoscaler, or not at all, to compare with.

Owns the instances' comings and goings. One takes 30 to 80 s to start, counted from the command as an hour that is
paid; one that is drained takes no new request and goes when it has finished what it has. What may go is decided as
in a cluster, by cluster/elasticity.py and the Autoscaler itself.

    asked for -> (30 to 80 s) -> active -> (draining) -> gone
"""

from collections import Counter
from collections.abc import Callable, Sequence
from importlib.metadata import version
from random import Random

import msgspec
import numpy as np

from memserve.cluster.autoscaler import Autoscaler, AutoscaleRules, Change, Observation, Resize
from memserve.cluster.elasticity import scale_steps
from memserve.cluster.service_levels import ServiceLevels, Targets
from memserve.cluster.view import ClusterView, InstanceState, InstanceView
from memserve.core.enums import Role
from memserve.core.errors import ConfigError
from memserve.core.ids import Epoch, InstanceId, RequestId
from memserve.scheduler.cost_model import ProfileIdentity
from memserve.simulator.run import Onlooker, Simulation
from memserve.simulator.setting import Setting, check_setting, instance_view
from memserve.simulator.trace import Trace
from memserve.wire.messages import Load

START_S = (30.0, 80.0)
"""Of an instance, until it serves: what vLLM took on the machine of the profile cpu-smollm2-135m, idle and busy."""
_EVERY_S = 10.0
_PARTS = 144
"""Of a day: ten minutes each."""


class FleetResult(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    """The size, or "autoscaled"."""
    instance_hours: float
    attained: float
    """Share of the requests that kept both targets."""
    ttft_s: float
    """Of the wanted share of the requests, as the next one."""
    tpot_s: float
    fewest: int
    most: int
    """Instances at once, those that start or finish their last requests among them."""
    num_changes: int
    num_reversals: int
    """Changes of a role that follow one in the other direction within the cool-down."""
    sizes: tuple[tuple[float, int], ...]
    """Seconds, and instances from then on."""


class FleetReport(msgspec.Struct, frozen=True, kw_only=True):
    trace: str
    requests: int
    hours: float
    profile: ProfileIdentity
    speed: float
    seed: int
    rules: AutoscaleRules
    version: str
    fixed: tuple[FleetResult, ...]
    autoscaled: FleetResult
    best_fixed: FleetResult | None
    """With the fewest instance-hours of those that kept the targets at least as often; None: none did."""
    rates: tuple[tuple[float, float], ...]
    """Seconds, and requests a second at that time."""


class _Levels(Onlooker):
    """Tells the service levels what the gateway would."""

    def __init__(self, levels: ServiceLevels, simulation: Simulation) -> None:
        self._levels = levels
        self._simulation = simulation

    def came(self, request: RequestId) -> None:
        self._levels.began(request, at=self._simulation.clock.now())

    def first_token(self, request: RequestId) -> None:
        self._levels.first_token(request)

    def finished(self, request: RequestId, *, num_tokens: int) -> None:
        self._levels.ended(request)
        self._levels.produced(request, num_tokens)


class Fleet:
    """One run; call `run` once."""

    def __init__(
        self, trace: Trace, setting: Setting, *, targets: Targets, rules: AutoscaleRules | None = None
    ) -> None:
        """Without rules, the size stays. Raises ConfigError for what cannot be."""
        self._trace, self._setting, self._targets = trace, setting, targets
        self._simulation = Simulation(trace, setting)
        self._random = Random(setting.seed)  # noqa: S311 - how long a start takes, no secret
        self._autoscaler = None if rules is None else Autoscaler(rules, clock=self._simulation.clock)
        self._cool_down_s = 0.0 if rules is None else rules.cool_down_s
        window_s = 60.0 if rules is None else rules.settle_s
        self._levels = ServiceLevels(clock=self._simulation.clock, targets=targets, window_s=window_s)
        self._simulation.watch(_Levels(self._levels, self._simulation))
        self._starting: dict[InstanceId, tuple[Role, float]] = {}
        self._num_named = setting.instances
        self._hours = 0.0
        self._looked_at = 0.0
        self._sizes: list[tuple[float, int]] = []
        self._changes: list[tuple[float, Change]] = []

    def run(self) -> FleetResult:
        self._simulation.repeat(_EVERY_S, self._look)
        self._simulation.run()
        times, requests = self._simulation.times, self._trace.requests
        tokens = np.array([request.output_tokens for request in requests])
        ttft = times.first_token_s - times.arrived_s
        tpot = (times.done_s - times.first_token_s) / np.maximum(tokens - 1, 1)
        sizes = [number for _, number in self._sizes]
        share = self._targets.share
        return FleetResult(
            name="autoscaled" if self._autoscaler is not None else str(self._setting.instances),
            instance_hours=self._hours,
            attained=float(np.mean((ttft <= self._targets.ttft_s) & (tpot <= self._targets.tpot_s))),
            ttft_s=float(np.quantile(ttft, share)),
            tpot_s=float(np.quantile(tpot, share)),
            fewest=min(sizes),
            most=max(sizes),
            num_changes=len(self._changes),
            num_reversals=num_reversals(self._changes, within_s=self._cool_down_s),
            sizes=tuple(self._sizes),
        )

    def _look(self) -> None:
        now = self._simulation.clock.now()
        self._count(now)
        self._come_and_go(now)
        if self._autoscaler is not None:
            starting = Counter(role for role, _ in self._starting.values())
            seen = Observation(view=self._loaded(), levels=self._levels.now(), starting=starting)
            for change in self._autoscaler.decide(seen).changes:
                self._make(change, now)
                self._autoscaler.changed(change)
                self._changes.append((now, change))

    def _count(self, now: float) -> None:
        number = len(self._simulation.view.instances) + len(self._starting)
        self._hours += (now - self._looked_at) / 3600.0 * (self._sizes[-1][1] if self._sizes else 0)
        self._looked_at = now
        if not self._sizes or self._sizes[-1][1] != number:
            self._sizes.append((now, number))

    def _come_and_go(self, now: float) -> None:
        ready = [name for name, (_, at) in self._starting.items() if at <= now]
        come = [self._new(name, self._starting.pop(name)[0]) for name in ready]
        stay = [i for i in self._simulation.view.instances if not self._is_done(i)]
        if come or len(stay) < len(self._simulation.view.instances):
            self._become((*stay, *come))

    def _new(self, name: InstanceId, role: Role) -> InstanceView:
        return instance_view(name, role, self._setting.profile, block_tokens=self._trace.block_tokens)

    def _is_done(self, instance: InstanceView) -> bool:
        return instance.state is InstanceState.DRAINING and not self._simulation.num_in_flight(instance.instance)

    def _loaded(self) -> ClusterView:
        """As the heartbeats would tell it."""
        view = self._simulation.view
        loaded = [
            msgspec.structs.replace(i, load=Load(num_running=self._simulation.num_in_flight(i.instance)))
            for i in view.instances
        ]
        return ClusterView(epoch=view.epoch, instances=tuple(loaded))

    def _make(self, change: Change, now: float) -> None:
        if not isinstance(change, Resize):
            self._replace(change.instance, role=change.after)
            return
        starting = Counter(role for role, _ in self._starting.values())
        steps = scale_steps(self._loaded(), {change.role: change.after}, starting=starting)
        for role in steps.start:
            self._starting[InstanceId(f"i{self._num_named}")] = (role, now + self._random.uniform(*START_S))
            self._num_named += 1
        for name in steps.drain:
            self._replace(name, state=InstanceState.DRAINING)

    def _replace(self, name: InstanceId, **changes: object) -> None:
        instances = self._simulation.view.instances
        self._become(tuple(msgspec.structs.replace(i, **changes) if i.instance == name else i for i in instances))

    def _become(self, instances: tuple[InstanceView, ...]) -> None:
        self._simulation.become(ClusterView(epoch=Epoch(self._simulation.view.epoch + 1), instances=instances))

    def __repr__(self) -> str:
        return f"Fleet({len(self._simulation.view.instances)} instances, {len(self._starting)} starting)"


def compare(
    trace: Trace,
    base: Setting,
    rules: AutoscaleRules,
    *,
    sizes: Sequence[int],
    each: Callable[[FleetResult], None] = lambda _: None,
) -> FleetReport:
    """The autoscaled cluster, begun as small as it may be, beside fixed ones of these sizes in the base's layout.

    `each` sees every result as it comes. Raises ConfigError, before the first run, for what cannot be.
    """
    rules.check()
    settings = [msgspec.structs.replace(base, instances=size) for size in sizes]
    settings.append(_smallest(base, rules))
    for setting in settings:
        check_setting(trace, setting)
    results = []
    for setting, own_rules in zip(settings, [None] * len(sizes) + [rules], strict=True):
        results.append(Fleet(trace, setting, targets=rules.targets, rules=own_rules).run())
        each(results[-1])
    *fixed, autoscaled = results
    kept = [result for result in fixed if result.attained >= autoscaled.attained]
    return FleetReport(
        trace=trace.name,
        requests=len(trace.requests),
        hours=trace.requests[-1].at_s / base.speed / 3600.0,
        profile=base.profile.identity,
        speed=base.speed,
        seed=base.seed,
        rules=rules,
        version=version("memserve"),
        fixed=tuple(fixed),
        autoscaled=autoscaled,
        best_fixed=min(kept, key=lambda result: result.instance_hours, default=None),
        rates=_rates(trace, base.speed),
    )


def _smallest(base: Setting, rules: AutoscaleRules) -> Setting:
    """As few instances as the bounds allow, each of a role that is bounded."""
    least = {role: bounds.least for role, bounds in rules.bounds.items()}
    number = sum(least.values())
    if set(least) == {Role.FLEXIBLE}:
        return msgspec.structs.replace(base, instances=number, layout="flexible")
    if Role.FLEXIBLE in least:
        raise ConfigError("flexible instances beside others are not simulated: name flexible alone, or leave it out")
    numbers = [least.get(role, 0) for role in (Role.PREFILL, Role.DECODE, Role.COLOCATED)]
    return msgspec.structs.replace(base, instances=number, layout="{}p{}d{}c".format(*numbers))


def _rates(trace: Trace, speed: float) -> tuple[tuple[float, float], ...]:
    """Requests a second in each part of the trace, by its middle."""
    came = np.array([request.at_s for request in trace.requests]) / speed
    counts, edges = np.histogram(came, bins=_PARTS)
    widths = np.diff(edges)
    return tuple(
        (float(edge + width / 2), float(number / width))
        for edge, width, number in zip(edges, widths, counts, strict=False)
    )


def num_reversals(changes: list[tuple[float, Change]], *, within_s: float) -> int:
    """How often a role changed back within so many seconds of its last change."""
    number = 0
    last: dict[Role, tuple[float, bool]] = {}
    for at, change in changes:
        grown = (
            {change.role: change.after > change.before}
            if isinstance(change, Resize)
            else {
                change.before: False,
                change.after: True,
            }
        )
        for role, is_up in grown.items():
            before, was_up = last.get(role, (-within_s, is_up))
            number += was_up is not is_up and at - before < within_s
            last[role] = (at, is_up)
    return number

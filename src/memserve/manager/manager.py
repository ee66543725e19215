"""Cluster manager: keeps membership true to the world, and its own instances running.

Owns the desk, the registry, the health checks, the clock ticks and the launcher; membership decides, this performs.
An instance of its own that was silent for too long is killed: what is out of the cluster must not act as a member.
Every task lives in one task group, which `stop` ends.

    start -> (launch -> wait_ready) -> serving -> stop
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

import aiohttp

from memserve.cluster.events import (
    Cause,
    DrainAsked,
    Event,
    InstanceDied,
    InstanceReady,
    LeaveReceived,
    ProcessExited,
    RequestFailed,
    RoleAsked,
    Tick,
    ViewChanged,
)
from memserve.cluster.membership import Membership
from memserve.cluster.view import ClusterView, InstanceState, InstanceView
from memserve.core.clock import Clock
from memserve.core.enums import SERVING_ROLES, Role
from memserve.core.errors import ConfigError, DeadlineExceeded, InvariantError, RegistryUnavailable
from memserve.core.ids import Incarnation, InstanceId
from memserve.manager.desk import Desk
from memserve.manager.health import is_healthy
from memserve.manager.launch_plan import LaunchSpec
from memserve.manager.launcher import EndListener, InstanceEnded, Launcher
from memserve.manager.own_registry import OwnRegistry
from memserve.manager.registry import ActingScaler, RegistryMaker, RegistryStats
from memserve.manager.self_tests import SelfTests
from memserve.security.https import towards_instances
from memserve.security.secret import ClusterSecret
from memserve.wire.messages import DeadInstance, PathCheck, RequestReport

SILENT_S = 20.0
"""An instance that was not heard of for so long is out of the cluster."""
_TICK_S = 0.5
_LATE_S = 1.0
"""A tick later than this means that this process stood still, and heartbeats wait unread: no one is judged by it."""
_HEALTH_EVERY_S = 0.5
_END_S = 8.0
_SELF_TEST_EVERY_S = 10.0

_log = logging.getLogger(__name__)


class ClusterManager:
    """One per gateway, on one event loop; its callbacks run on that loop and must not block."""

    def __init__(
        self,
        *,
        cluster: str,
        bind: str,
        clock: Clock,
        on_report: Callable[[RequestReport], None],
        on_change: Callable[[ClusterView, tuple[DeadInstance, ...]], None],
        launcher: Callable[[EndListener], Launcher],
        registry: RegistryMaker = OwnRegistry,
        port: int = 0,
        config: bytes = b"{}",
        secret: ClusterSecret | None = None,
        suspect_s: float = 5.0,
        dead_s: float = SILENT_S,
    ) -> None:
        """`bind` is the address on which instances reach the desk; port 0 takes a free one.

        `launcher` is made with what it is to call when an instance ends by itself; `config` is what those who
        start an instance elsewhere are told to make it like.
        """
        self._clock = clock
        self._on_change = on_change
        self.secret = secret
        """Of the cluster."""
        self._membership = Membership(clock=clock, suspect_s=suspect_s, dead_s=dead_s)
        self._desk = Desk(
            cluster=cluster,
            bind=bind,
            port=port,
            membership=self._membership,
            on_report=on_report,
            on_drain=self._asked_to_drain,
            on_dismissed=self._let_go,
            config=config,
            secret=secret,
        )
        self._registry = registry(self._desk, self._membership, self._tell)
        self.launcher = launcher(self._ended)
        self._drain: Callable[[InstanceId], Awaitable[None]] = self.ask_drain
        self._failures: dict[InstanceId, str] = {}
        self._stopping = False
        self._adopted: set[InstanceId] = set()
        self._changed = asyncio.Event()
        self._checked: set[tuple[InstanceId, Incarnation]] = set()
        self._tried_out: set[tuple[InstanceId, Incarnation]] = set()
        self._self_tests = SelfTests(secret=secret)
        self._group: asyncio.TaskGroup | None = None
        self._http: aiohttp.ClientSession | None = None
        self._runner: asyncio.Task[None] | None = None

    @property
    def endpoint(self) -> str:
        """Where those who run instances ask; "" before `start`."""
        return self._desk.endpoint

    @property
    def join(self) -> str:
        """What instances are given to join; only after `start`."""
        return self._registry.join

    @property
    def view(self) -> ClusterView:
        return self._membership.view

    @property
    def registry_stats(self) -> RegistryStats:
        return self._registry.stats()

    @property
    def acting_scaler(self) -> ActingScaler:
        return self._registry.acting_scaler

    @property
    def path_checks(self) -> tuple[PathCheck, ...]:
        """How blocks got from one instance to another when the younger of the two came."""
        return self._self_tests.checks(self.view)

    @property
    def failures(self) -> tuple[str, ...]:
        """Instances that ended by themselves, or are refused, and do not serve again: why, and what becomes of them."""
        return tuple(f"{why}; {self._fate(instance)}" for instance, why in sorted(self._failures.items()))

    def _fate(self, instance: InstanceId) -> str:
        if self.refusal_of(instance):
            return "it is tried again"
        return "it is started again" if instance in self.launcher.specs else "it is not started again"

    async def start(self) -> None:
        """Listen and watch. Raises ConfigError when the address cannot be bound, or the registry is not there."""
        await self._desk.start()
        started = asyncio.Event()
        self._runner = asyncio.create_task(self._run(started), name="cluster manager")
        self._runner.add_done_callback(self._broke_down)
        await started.wait()
        await self._registry.start()

    async def stop(self) -> None:
        """Stop its own instances (within 10 s), then watching and listening. Idempotent."""
        self._stopping = True
        await asyncio.gather(self.launcher.close(), self._end_adopted())
        await self._registry.close()
        await self._desk.close()
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.cancel()
            await asyncio.wait([runner])

    def request_failed(self, instance: InstanceId, incarnation: Incarnation, why: str) -> None:
        """The gateway met a broken or refused connection: no requests go there until a health check passed."""
        _log.warning("%s failed a request: %s", instance, why)
        self._tell(RequestFailed(instance=instance, incarnation=incarnation))

    async def ask_drain(self, instance: InstanceId) -> None:
        """No new requests from now on. Raises ConfigError with the reason when it must not go."""
        await self._registry.agree(DrainAsked(instance=instance))

    async def ask_role(self, instance: InstanceId, role: Role) -> None:
        """Raises ConfigError with the reason when it cannot, or must not, become that."""
        await self._registry.agree(RoleAsked(instance=instance, role=role))

    def left(self, instance: InstanceId, incarnation: Incarnation) -> None:
        """It has been stopped on purpose: out of the view, also where it had no time to say goodbye."""
        self._tell(LeaveReceived(instance=instance, incarnation=incarnation))
        self._registry.gone(instance, incarnation)

    def let_drain(self, drain: Callable[[InstanceId], Awaitable[None]]) -> None:
        """From now on `drain` is told when an instance asks to be drained; its errors refuse that."""
        self._drain = drain

    async def dismiss(self, instance: InstanceId) -> None:
        """Tell it, or whoever runs it elsewhere, that it is wanted no more: it is to end by itself."""
        present = self.view.find(instance)
        if present is not None:
            await self._registry.dismiss(instance, present.incarnation)

    async def launch(self, specs: Iterable[LaunchSpec]) -> None:
        """Start instances of its own and keep them running; returns once all are started.

        Raises ConfigError when one cannot be started; those started before it stay until `stop`.
        """
        for spec in specs:
            self._failures.pop(spec.instance, None)
            await self.launcher.start(spec)

    def adopt(self, instances: Iterable[InstanceId]) -> None:
        """These run already, and are to end with this manager's own; nobody here starts them again."""
        self._adopted.update(instances)

    def failure_of(self, instance: InstanceId) -> str:
        """Why it ended by itself the last time; "" when it did not."""
        return self._failures.get(instance, "")

    def refusal_of(self, instance: InstanceId) -> str:
        """Why it is not taken into the cluster; "" when it is, or did not try."""
        return self._desk.refusal_of(instance)

    async def wait_change(self) -> None:
        """Until something happens to membership or to an instance of its own."""
        await self._changed.wait()

    async def wait_empty(self) -> None:
        """Until nobody is in the cluster and nobody will be started again."""
        while self.view.instances or self.launcher.specs:
            await self._changed.wait()

    async def wait_ready(self, count: int, deadline_s: float | None) -> None:
        """Until `count` instances are active; without a deadline as long as it takes.

        Raises ConfigError with the reason of an own one that ended meanwhile, DeadlineExceeded with the states.
        """
        try:
            async with asyncio.timeout(deadline_s):
                while self._num_ready() < count:
                    if self._failures:
                        raise ConfigError("; ".join(self._failures.values()))
                    if self._runner is None or self._runner.done():
                        raise InvariantError("the cluster manager is not running; its log says why")
                    await self._changed.wait()
        except TimeoutError as error:
            raise DeadlineExceeded(self._unready(count, deadline_s or 0.0)) from error

    def _num_ready(self) -> int:
        return len(self.view.active(*SERVING_ROLES))

    def _unready(self, count: int, deadline_s: float) -> str:
        states = {view.instance: str(view.state) for view in self.view.instances}
        states = dict.fromkeys(self.launcher.specs, "started, not joined") | states
        listed = ", ".join(f"{name} {state}" for name, state in sorted(states.items())) or "none joined"
        logs = "".join(f"; log of {name}: {spec.log}" for name, spec in sorted(self.launcher.specs.items()))
        return f"{self._num_ready()} of {count} instances are ready after {deadline_s:g} s ({listed}){logs}"

    async def _run(self, started: asyncio.Event) -> None:
        try:
            connector = aiohttp.TCPConnector(ssl=towards_instances(self.secret))
            async with aiohttp.ClientSession(connector=connector) as http, asyncio.TaskGroup() as group:
                self._http, self._group = http, group
                started.set()
                await self._tick()
        finally:
            self._http, self._group = None, None

    def _broke_down(self, runner: "asyncio.Task[None]") -> None:
        if not runner.cancelled() and runner.exception() is not None:
            _log.critical("the cluster manager broke down: membership stands still", exc_info=runner.exception())
        self._wake()

    async def _tick(self) -> None:
        while True:
            due = self._clock.now() + _TICK_S
            await asyncio.sleep(_TICK_S)
            late_s = self._clock.now() - due
            if late_s > _LATE_S:
                _log.warning("the cluster manager stood still for %.1f s; silence meanwhile is not counted", late_s)
            elif self._registry.is_hearing:
                self._tell(Tick())

    def _tell(self, event: Event) -> None:
        """Have membership decide, then perform the effects."""
        effects = self._membership.handle(event)
        if not effects:
            return
        dead = [effect for effect in effects if isinstance(effect, InstanceDied)]
        for effect in dead:
            self._take_leave(effect)
        told = tuple(DeadInstance(instance=d.instance, incarnation=d.incarnation) for d in dead)
        for changed in (effect for effect in effects if isinstance(effect, ViewChanged)):
            self._on_change(changed.view, told)
        self._wake()
        for instance in self.view.instances:
            self._check_health(instance)

    def _take_leave(self, dead: InstanceDied) -> None:
        is_expected = self._stopping or self._desk.has_dismissed(dead.instance, dead.incarnation)
        level = logging.INFO if is_expected else logging.WARNING
        _log.log(level, "%s is out of the cluster: %s", dead.instance, dead.why)
        self._tried_out.discard((dead.instance, dead.incarnation))
        if dead.cause is Cause.SILENT:
            self.launcher.fence(dead.instance)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _check_health(self, view: InstanceView) -> None:
        member = (view.instance, view.incarnation)
        if view.state is InstanceState.JOINING and member not in self._checked and self._group is not None:
            self._checked.add(member)
            self._group.create_task(self._await_health(view), name=f"health of {view.instance}")

    async def _await_health(self, view: InstanceView) -> None:
        """Ask until the answers are good or the incarnation is no longer waiting for them."""
        member = (view.instance, view.incarnation)
        try:
            while self._is_joining(*member):
                is_up = self._http is not None and await is_healthy(self._http, view.url)
                if is_up and await self._exchanges_blocks(view):
                    break
                await asyncio.sleep(_HEALTH_EVERY_S if not is_up else _SELF_TEST_EVERY_S)
        finally:
            self._checked.discard(member)
        self._tell(InstanceReady(instance=view.instance, incarnation=view.incarnation))

    async def _exchanges_blocks(self, view: InstanceView) -> bool:
        """Tried out once in its life; one that fails is refused, and tried again later."""
        member = (view.instance, view.incarnation)
        if member not in self._tried_out:
            others = [i for i in self.view.active() if i.instance != view.instance]
            why = self._plain_text(view) or await self._self_tests.refusal(view, others)
            if why:
                self._desk.refuse(*member, why)
                self._failures[view.instance] = f"{view.instance} is refused: {why}"
                self._wake()
                return False
            self._desk.forgive(view.instance)
            self._failures.pop(view.instance, None)
            self._tried_out.add(member)
        return True

    def _plain_text(self, view: InstanceView) -> str:
        """Why prompts must not go there; "" when they may."""
        if self.secret is None or not view.url.startswith("http:"):
            return ""
        return f"its server {view.url} speaks plain HTTP, in a cluster with a secret: start it with memserve instance"

    def _is_joining(self, instance: InstanceId, incarnation: Incarnation) -> bool:
        found = self.view.find(instance)
        return found is not None and found.incarnation == incarnation and found.state is InstanceState.JOINING

    async def _end_adopted(self) -> None:
        """Their guards end them when they hear that they are dismissed."""
        adopted, self._adopted = self._adopted, set()
        try:
            async with asyncio.timeout(_END_S):
                for instance in adopted:
                    await self.dismiss(instance)
                while any(self.view.find(instance) is not None for instance in adopted):
                    await self._changed.wait()
        except (TimeoutError, RegistryUnavailable) as error:
            names = ", ".join(sorted(adopted))
            _log.warning("%s may run on (%s): end them with memserve drain", names, error or f"not gone in {_END_S} s")

    def _let_go(self, instance: InstanceId) -> None:
        """Another manager has drained it: whoever started it ends it, and does not start it again."""
        if instance in self.launcher.specs and self._group is not None:
            self._group.create_task(self.launcher.stop(instance), name=f"end of {instance}")

    async def _asked_to_drain(self, instance: InstanceId) -> None:
        await self._drain(instance)

    def _ended(self, end: InstanceEnded) -> None:
        again = "it is given up" if end.restart_in_s is None else f"starting it again in {end.restart_in_s:g} s"
        number = f" (restart {end.num_restarts} in a row)" if end.restart_in_s is not None else ""
        _log.error("%s ended: %s; %s%s", end.instance, end.why, again, number)
        self._failures[end.instance] = f"{end.instance} ended: {end.why}"
        present = self.view.find(end.instance)
        self._tell(ProcessExited(instance=end.instance, why=end.why))
        if present is not None:
            self._registry.gone(present.instance, present.incarnation)
        self._wake()

    def __repr__(self) -> str:
        return f"ClusterManager({self.endpoint or 'not started'}, {self._membership}, {self.launcher})"

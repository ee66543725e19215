"""A running cluster: manager, instances, scheduler and gateway, for the length of a block.

Owns the order of starting and stopping and nothing that they do. What fails while starting is raised with
its reason, after everything that had started is gone again.

    prepare -> manager listens -> instances start -> all ready -> gateway serves -> (block) -> all stopped

On the way out the instances go first: requests still in progress then end at once instead of holding the
gateway, and everything is gone within 10 s.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
from starlette.types import ASGIApp

from memserve.cluster.view import ClusterView, InstanceState
from memserve.config import ServeConfig
from memserve.core.clock import Clock, SystemClock
from memserve.core.enums import AutoscaleMode, Role
from memserve.core.http_address import base_url
from memserve.core.ids import InstanceId
from memserve.core.notation import parse_address
from memserve.gateway.app import create_app
from memserve.gateway.context import GatewayContext
from memserve.gateway.metrics import GatewayMetrics
from memserve.gateway.served_model import ServedModel
from memserve.gateway.server import Sharing, running
from memserve.gateway.tenants import Tenants
from memserve.gateway.tokenization import Tokenization, load_tokenization
from memserve.gateway.worker_ids import ending_of
from memserve.gateway.worker_messages import Choices
from memserve.manager.elasticity import START_S, Elasticity
from memserve.manager.etcd_registry import registry_in_etcd
from memserve.manager.event_subscriptions import EventSubscriptions
from memserve.manager.launch_plan import LaunchPlan, LaunchSpec, num_instances
from memserve.manager.launcher import EndListener, Launcher
from memserve.manager.manager import SILENT_S, ClusterManager
from memserve.manager.own_registry import OwnRegistry
from memserve.manager.role_args import role_args
from memserve.serving.autoscaling import LevelsOfAll, autoscaling
from memserve.serving.growth import more_instances
from memserve.serving.launching import launching
from memserve.serving.model_facts import served_model
from memserve.serving.parts import GatewayParts, instance_clients
from memserve.serving.prepare import PreparedRun
from memserve.serving.routing import RoutingFacts, make_scheduler, routing_facts
from memserve.serving.watcher import Watcher
from memserve.serving.workers.head import Head
from memserve.serving.workers.plan import WorkerPlan
from memserve.serving.workers.running import running_workers
from memserve.storage.shared_memory import sweep
from memserve.wire.messages import DeadInstance


class Cluster:
    """What the owner of a running cluster can ask."""

    def __init__(self, *, url: str, model: str, manager: ClusterManager, num_own: int) -> None:
        self.url = url
        """Base URL of the gateway."""
        self.model = model
        """What clients put into "model"."""
        self._manager = manager
        self._num_own = num_own

    @property
    def view(self) -> ClusterView:
        return self._manager.view

    async def wait_empty(self) -> None:
        """Until no instance is left and none will be started again: nothing can be served any more.

        Never where none was started here: those that joined may come back.
        """
        if not self._num_own:
            await asyncio.Event().wait()
        await self._manager.wait_empty()

    def __repr__(self) -> str:
        return f"Cluster({self.url}, {self._manager})"


class _Changes:
    """Turns views of the cluster into what the Watcher, the workers and the event readers want to know."""

    def __init__(self, watcher: Watcher, head: Head, *, cluster: str) -> None:
        self._watcher = watcher
        self._head = head
        self._cluster = cluster
        self._ready: set[tuple[str, int]] = set()
        self._subscriptions: EventSubscriptions | None = None

    def follow(self, subscriptions: EventSubscriptions, view: ClusterView) -> None:
        """Keep these up with the cluster, too, from this view on."""
        self._subscriptions = subscriptions
        subscriptions.update(view)

    def sweep(self) -> None:
        """Remove what instances that nobody here started have left in shared memory when they were killed."""
        sweep(f"{self._cluster}-")

    def changed(self, view: ClusterView, dead: tuple[DeadInstance, ...]) -> None:
        if dead:
            self.sweep()
        for instance in view.instances:
            member = (instance.instance, instance.incarnation)
            if instance.state is InstanceState.ACTIVE and member not in self._ready:
                self._ready.add(member)
                self._watcher.ready(instance)
        if self._subscriptions is not None:
            self._subscriptions.update(view)
        self._head.changed()


@asynccontextmanager
async def running_cluster(run: PreparedRun, *, watcher: Watcher | None = None) -> AsyncIterator[Cluster]:
    """Everything running and ready inside the block, nothing left after it.

    Raises ConfigError with the reason from an instance's log when one ends while starting.
    """
    clock = SystemClock()
    listener = watcher or Watcher()
    parts = GatewayParts(run.config, clock)
    metrics, reports = parts.metrics, parts.reports
    head = Head(
        num_workers=run.config.gateway.workers,
        choices=lambda: Choices(policy=scheduler.policy, transfer=parts.switches.transfer),
        own_report=reports.ingest_own if _has_others(run) else reports.ingest,
        secret=run.secret,
    )
    changes = _Changes(listener, head, cluster=run.cluster)
    async with AsyncExitStack() as stack:
        launcher = await stack.enter_async_context(launching(run, clock))
        manager = _manager(run, head, changes, launcher, clock)
        stack.callback(changes.sweep)
        stack.push_async_callback(manager.stop)
        tokenizer, model = await _start(run, manager, listener)
        stack.callback(tokenizer.close)
        releases, pools = await stack.enter_async_context(instance_clients(run.secret))
        facts = routing_facts(run, manager.view)
        scheduler = make_scheduler(run.config, facts, clock)
        parts.follow(scheduler)
        _show(metrics, manager, head)
        subscriptions = EventSubscriptions(scheduler, clock=clock, secret=run.secret)
        await stack.enter_async_context(subscriptions.running())
        changes.follow(subscriptions, manager.view)
        elasticity = _elasticity(run, manager, lambda i: scheduler.num_in_flight(i) + head.num_in_flight(i), listener)
        await stack.enter_async_context(elasticity.running())
        levels = None if parts.levels is None else LevelsOfAll(parts.levels, head)
        autoscaler = await stack.enter_async_context(
            autoscaling(run.config, levels=levels, manager=manager, elasticity=elasticity, metrics=metrics, clock=clock)
        )
        context = GatewayContext(
            settings=run.config.gateway.part(0),
            base_models=frozenset({run.model_name, ""}),
            model=model,
            scheduler=scheduler,
            cluster=manager,
            elasticity=elasticity,
            autoscaler=autoscaler,
            tokenizer=tokenizer,
            releases=releases,
            pools=pools,
            history=parts.history,
            metrics=metrics,
            reports=reports,
            tenants=Tenants(run.config.tenants),
            switches=parts.switches,
            workers=head,
            id_ending=ending_of(0) if run.config.gateway.workers > 1 else "",
            secret=run.secret,
        )
        url = await stack.enter_async_context(_listening(run, create_app(context), head, manager, facts))
        stack.push_async_callback(manager.stop)
        yield Cluster(url=url, model=run.model_name, manager=manager, num_own=num_instances(run.config))


@asynccontextmanager
async def _listening(
    run: PreparedRun, app: ASGIApp, head: Head, manager: ClusterManager, facts: RoutingFacts
) -> AsyncIterator[str]:
    """The gateway for its clients, all of its workers; gives its URL."""
    host, certificate = run.config.gateway.host, run.certificate
    sharing = Sharing.FIRST if run.config.gateway.workers > 1 else Sharing.ALONE
    async with (
        running(app, host=host, port=run.config.gateway.port, certificate=certificate, sharing=sharing) as port,
        head.running(app, manager),
    ):
        plan = WorkerPlan(
            worker=0,
            head=head.endpoint,
            key=head.key,
            config=run.config,
            model_name=run.model_name,
            port=port,
            certificate=certificate,
            facts=facts,
        )
        async with running_workers(head, plan, machine=run.machine, log_folder=run.log_folder, clock=SystemClock()):
            yield base_url(host, port, scheme="https" if certificate is not None else "http")


def _show(metrics: GatewayMetrics, manager: ClusterManager, head: Head) -> None:
    """What a scrape tells of the cluster."""
    metrics.show_cluster(lambda: manager.view)
    metrics.show_paths(lambda: manager.path_checks)
    metrics.show_registry(lambda: manager.registry_stats)
    metrics.show_workers(head)


def _has_others(run: PreparedRun) -> bool:
    """Reports of requests that somebody else serves may come here."""
    return bool(run.config.cluster.registry) or run.config.gateway.workers > 1


def _manager(
    run: PreparedRun,
    head: Head,
    changes: _Changes,
    launcher: Callable[[EndListener], Launcher],
    clock: Clock,
) -> ClusterManager:
    settings = run.config.cluster
    host, port = parse_address(settings.manager, "cluster.manager")
    shared = settings.registry
    return ClusterManager(
        cluster=run.cluster,
        bind=host,
        port=port,
        clock=clock,
        registry=registry_in_etcd(
            shared, model=run.model_name, autoscales=run.config.autoscaler.mode is AutoscaleMode.ON
        )
        if shared
        else OwnRegistry,
        dead_s=math.inf if shared else SILENT_S,
        on_report=head.ingest,
        on_change=changes.changed,
        launcher=launcher,
        config=msgspec.json.encode(_told(run.config)),
        secret=run.secret,
    )


def _told(config: ServeConfig) -> ServeConfig:
    """What who joins needs to know: neither the tenants' keys, nor where the secret lies on this host."""
    cluster = msgspec.structs.replace(config.cluster, secret="")
    return msgspec.structs.replace(config, cluster=cluster, tenants=())


def _elasticity(
    run: PreparedRun, manager: ClusterManager, in_flight: Callable[[InstanceId], int], watcher: Watcher
) -> Elasticity:
    async def make_specs(roles: Sequence[Role], taken: Collection[InstanceId]) -> Sequence[LaunchSpec]:
        beside = tuple(manager.launcher.specs.values())
        specs = await asyncio.to_thread(
            more_instances, run, roles, manager_endpoint=manager.join, taken=taken, beside=beside
        )
        watcher.starting(LaunchPlan(specs=specs, machine=run.machine))
        return specs

    return Elasticity(manager, in_flight=in_flight, make_specs=make_specs)


async def _start(run: PreparedRun, manager: ClusterManager, watcher: Watcher) -> tuple[Tokenization, ServedModel]:
    """Instances up and ready; tokenizer and model files are read while they start."""
    await manager.start()
    plan = run.plan(manager_endpoint=manager.join)
    missing = tuple(spec for spec in plan.specs if manager.view.find(spec.instance) is None)
    manager.adopt(spec.instance for spec in plan.specs if spec not in missing)
    if plan.specs:
        watcher.starting(LaunchPlan(specs=missing, machine=plan.machine))
    else:
        watcher.waiting(manager.endpoint)
    await manager.launch(missing)
    tokenizer = await asyncio.to_thread(load_tokenization, run.config.model)
    try:
        args = [arg for role in Role for arg in role_args(run.config, role)]
        model = await asyncio.to_thread(served_model, run.config.model, args, tokenizer)
        await manager.wait_ready(max(1, len(plan.specs)), START_S if plan.specs else None)
    except BaseException:
        tokenizer.close()
        raise
    return tokenizer, model

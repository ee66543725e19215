"""memserve's gateway with its real tokenizer, scheduler and admission, before engines that compute nothing.

Child of `memserve bench gateway`. Only the cluster is made up: two colocated instances
that never change. Further workers are the processes that `memserve serve --workers` starts.
"""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import uvloop
from starlette.types import ASGIApp

from memserve.bench.systems.channel import System, serve
from memserve.bundled.model import bundled_model, cache_folder
from memserve.cluster.view import ClusterView, InstanceState, InstanceView
from memserve.config import ClusterSettings, GatewaySettings, ServeConfig
from memserve.core.clock import SystemClock
from memserve.core.enums import Role
from memserve.core.errors import ConfigError
from memserve.core.ids import Epoch, Incarnation, InstanceId
from memserve.gateway.app import create_app
from memserve.gateway.context import GatewayContext
from memserve.gateway.metrics import GatewayMetrics
from memserve.gateway.pool_control import RpcPools
from memserve.gateway.records import RequestHistory
from memserve.gateway.release import RpcReleases
from memserve.gateway.reports import ReportLog
from memserve.gateway.served_model import ServedModel
from memserve.gateway.server import Sharing, running
from memserve.gateway.switches import Switches
from memserve.gateway.tenants import Tenants
from memserve.gateway.tokenization import load_tokenization
from memserve.gateway.worker_messages import Choices
from memserve.instance.setup import default_identity
from memserve.manager.machine import Machine
from memserve.manager.operations import Operation, Operations
from memserve.scheduler.pull_policy import PullPolicy
from memserve.scheduler.scheduler import Scheduler
from memserve.serving.garbage import sparing_what_stays
from memserve.serving.routing import RoutingFacts
from memserve.serving.workers.head import Head
from memserve.serving.workers.plan import WorkerPlan
from memserve.serving.workers.running import running_workers
from memserve.wire.messages import Load, PathCheck, PeerInfo

_BLOCK_SIZE = 16
_MODEL_NAME = "bench"


class FixedCluster:
    """Membership and ElasticCluster of instances that are always there."""

    endpoint = ""
    path_checks: tuple[PathCheck, ...] = ()
    failures: tuple[str, ...] = ()

    def __init__(self, urls: list[str]) -> None:
        self.operations = Operations()
        identity = default_identity(block_size=_BLOCK_SIZE, block_bytes=_BLOCK_SIZE)
        self.view = ClusterView(
            epoch=Epoch(1),
            instances=tuple(
                InstanceView(
                    peer=PeerInfo(
                        instance=InstanceId(f"colocated-{number}"),
                        incarnation=Incarnation(1),
                        endpoint="",
                        identity=identity,
                    ),
                    role=Role.COLOCATED,
                    url=url,
                    state=InstanceState.ACTIVE,
                    load=Load(),
                )
                for number, url in enumerate(urls)
            ),
        )

    def request_failed(self, instance: InstanceId, incarnation: Incarnation, why: str) -> None:
        """Nothing follows from it here; the request itself is an error that the benchmark counts."""

    async def drain(self, instance: InstanceId) -> Operation:
        raise ConfigError(f"{instance} belongs to a benchmark: its cluster does not change")

    async def scale(self, wanted: Mapping[Role, int]) -> tuple[Operation, ...]:
        raise ConfigError(f"{dict(wanted)}: the cluster of a benchmark does not change")

    async def change_role(self, instance: InstanceId, role: Role) -> Operation:
        raise ConfigError(f"{instance} stays what it is, not {role}: the cluster of a benchmark does not change")


class Gateway:
    """The server on a thread of its own, beside the channel to the parent; one at a time."""

    def __init__(self) -> None:
        self._model = str(bundled_model(cache_folder(os.environ)))
        self._settings = GatewaySettings()
        self._tokenizer = load_tokenization(self._model)
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._url = ""

    def open(self, request: dict[str, Any]) -> str:
        """URL once it answers."""
        self._ready.clear()
        cluster, policy = FixedCluster(request["backends"]), request["policy"]
        self._settings = GatewaySettings(workers=request["num_workers"])
        self._thread = threading.Thread(target=lambda: uvloop.run(self._serve(cluster, policy)), daemon=True)
        self._thread.start()
        self._ready.wait(60)
        return self._url

    def close(self, _request: dict[str, Any]) -> None:
        if self._thread is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(30)
            self._thread = None

    async def _serve(self, cluster: FixedCluster, policy: str) -> None:
        self._stop = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        app = create_app(self._context(cluster, policy))
        sharing = Sharing.FIRST if self._settings.workers > 1 else Sharing.ALONE
        async with running(app, sharing=sharing) as port, self._workers(app, cluster, policy, port):
            self._url = f"http://127.0.0.1:{port}"
            self._ready.set()
            with sparing_what_stays():
                await self._stop.wait()

    @asynccontextmanager
    async def _workers(self, app: ASGIApp, cluster: FixedCluster, policy: str, port: int) -> AsyncIterator[None]:
        """The further ones, serving for the length of the block."""
        head = Head(
            num_workers=self._settings.workers,
            choices=lambda: Choices(policy=policy),
            own_report=lambda _: None,
            secret=None,
        )
        with TemporaryDirectory() as logs:
            async with head.running(app, cluster):
                config = ServeConfig(model=self._model, gateway=self._settings, cluster=ClusterSettings(policy=policy))
                plan = WorkerPlan(
                    worker=0,
                    head=head.endpoint,
                    key=head.key,
                    config=config,
                    model_name=_MODEL_NAME,
                    port=port,
                    certificate=None,
                    facts=RoutingFacts(block_size=_BLOCK_SIZE),
                )
                machine, clock = Machine.here(), SystemClock()
                async with running_workers(head, plan, machine=machine, log_folder=Path(logs), clock=clock):
                    yield

    def _context(self, cluster: FixedCluster, policy: str) -> GatewayContext:
        clock = SystemClock()
        metrics = GatewayMetrics()
        metrics.show_cluster(lambda: cluster.view)
        history = RequestHistory(clock=clock)
        scheduler = Scheduler(
            block_size=_BLOCK_SIZE,
            policy=policy,
            clock=clock,
            random=Random(),  # noqa: S311 - chooses among equals
            pulls=PullPolicy(),
        )
        metrics.follow(scheduler)
        return GatewayContext(
            settings=self._settings.part(0),
            base_models=frozenset({_MODEL_NAME, ""}),
            model=ServedModel(detokenizer=None),
            scheduler=scheduler,
            cluster=cluster,
            elasticity=cluster,
            tokenizer=self._tokenizer,
            releases=RpcReleases(),
            pools=RpcPools(),
            history=history,
            metrics=metrics,
            reports=ReportLog(history=history, metrics=metrics),
            tenants=Tenants(()),
            switches=Switches(),
        )


def _system() -> System:
    gateway = Gateway()
    return System(version=version("memserve"), handlers={"open": gateway.open, "close": gateway.close})


if __name__ == "__main__":
    serve(_system)

"""Runs instances as actors of a Ray cluster, spread over its nodes, each supervised (supervised.py).

Owns the connection to Ray and one actor for each life of an instance; a new life is a new actor, which Ray places
where there is room, so that what a dead node ran comes back on another one. Ray itself restarts nothing. The actors
belong to this process: Ray ends them when it goes.

    open -> start: actor placed -> address chosen there -> runs -> ended, or the actor is gone with its node -> close

Needs the extra `memserve[ray]`. Every wait for Ray has a deadline but the one for an instance's end.
"""

import asyncio
import logging
from typing import Any

import msgspec

from memserve.cluster.restarts import RestartRules
from memserve.config import RaySettings
from memserve.core.clock import Clock
from memserve.core.errors import ConfigError
from memserve.core.notation import parse_address, parse_size
from memserve.manager.launch_plan import LaunchSpec, moved
from memserve.manager.launcher import EndListener
from memserve.manager.ray_host import HostedEnd, HostPlace, InstanceHost
from memserve.manager.supervised import Supervisor

LOOPBACK = "127.0.0.1"

_log = logging.getLogger(__name__)

_CONNECT_S = 10.0
_PLACE_S = 60.0
"""A node's first actor waits for a Python process that imports this package."""
_STOP_S = 9.0


class RayCluster:
    """One connection of this process to a Ray cluster; Ray allows one at a time."""

    def __init__(self, ray: Any, settings: RaySettings) -> None:
        self._ray = ray
        self.settings = settings

    @classmethod
    async def connect(cls, settings: RaySettings, *, name: str) -> "RayCluster":
        """Raises ConfigError when Ray is not installed, or no Ray cluster is there."""
        settings.check()
        try:
            import ray  # noqa: PLC0415 - an extra, and slow to import
        except ImportError as error:
            raise ConfigError('--launcher ray needs Ray: pip install "memserve[ray]"') from error
        try:
            await _check_head(settings.address)
            logging.getLogger("ray").setLevel(logging.ERROR)  # it warns that signals are not its own here
            # Ray gives up by itself; a thread that waits for it could not be called back.
            await asyncio.to_thread(
                ray.init, address=settings.address, namespace=name, log_to_driver=False, configure_logging=False
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise ConfigError(
                f"no Ray cluster answers at {settings.address} ({error or type(error).__name__}): start one with "
                "ray start --head, or name another with --ray-address HOST:PORT"
            ) from error
        return cls(ray, settings)

    async def close(self) -> None:
        """Ray ends what this process still has running there. Idempotent."""
        await asyncio.to_thread(self._ray.shutdown)

    def node(self) -> str:
        """Address of this process's own node."""
        return str(self._ray.util.get_node_ip_address())

    def host(self, spec: LaunchSpec) -> Any:
        """A new actor with the resources for this instance; Ray places it now, or when there is room."""
        wanted = self.settings
        num_gpus = wanted.num_gpus
        if num_gpus is None:
            num_gpus = 1.0 if self._ray.cluster_resources().get("GPU") else 0.0
        options: dict[str, Any] = {"num_cpus": wanted.num_cpus * spec.num_ranks, "num_gpus": num_gpus * spec.num_ranks}
        if wanted.memory:
            options["memory"] = parse_size(wanted.memory, "ray.memory")
        actor = self._ray.remote(InstanceHost)
        return actor.options(scheduling_strategy="SPREAD", max_restarts=0, **options).remote()

    def discard(self, actor: Any) -> None:
        """End an actor, and with it what it runs."""
        self._ray.kill(actor, no_restart=True)

    def free(self) -> str:
        """What is left of the cluster, in words."""
        left = self._ray.available_resources()
        return f"{left.get('CPU', 0):g} CPUs, {left.get('GPU', 0):g} GPUs, {int(left.get('memory', 0)) >> 20} MiB"

    @property
    def gone(self) -> type[Exception]:
        """What awaiting an actor raises when it, or its node, is no more."""
        error: type[Exception] = self._ray.exceptions.RayError
        return error


class RayInstance:
    """One life of an instance, in one actor."""

    def __init__(self, cluster: RayCluster, actor: Any, spec: LaunchSpec, *, node: str, secret_file: str) -> None:
        self._cluster = cluster
        self._actor = actor
        self._spec = spec
        self._node = node
        self._run = asyncio.wrap_future(actor.run.remote(msgspec.json.encode(spec).decode(), secret_file).future())
        self._run.add_done_callback(_notice)
        self._why = ""

    @property
    def spec(self) -> LaunchSpec:
        return self._spec

    async def wait(self) -> int:
        try:
            end = msgspec.json.decode(await asyncio.shield(self._run), type=HostedEnd)
        except self._cluster.gone as error:
            self._why = f"its Ray actor on node {self._node} is gone: {_first_line(error)}"
            return 137
        finally:
            if self._run.done():
                self._cluster.discard(self._actor)
        self._why = f"{end.why} on node {self._node}"
        return end.exit_code

    async def why_it_ended(self) -> str:
        return self._why

    async def stop(self) -> None:
        try:
            async with asyncio.timeout(_STOP_S):
                await asyncio.wrap_future(self._actor.stop.remote().future())
                await asyncio.wait([self._run])
        except (TimeoutError, self._cluster.gone) as error:
            _log.warning("%s did not stop in time, its actor is ended: %s", self._spec.instance, _first_line(error))
        finally:
            self._cluster.discard(self._actor)

    def kill(self) -> None:
        self._actor.kill.remote()

    def __repr__(self) -> str:
        return f"RayInstance({self._spec.instance} on {self._node})"


class RayLauncher(Supervisor[LaunchSpec]):
    """On one event loop; the connection belongs to whoever made it."""

    def __init__(
        self,
        cluster: RayCluster,
        *,
        is_loopback: bool,
        rules: RestartRules,
        clock: Clock,
        on_end: EndListener,
        secret_file: str = "",
    ) -> None:
        """`is_loopback`: the manager is reached from its own machine only, and so are the instances.

        `secret_file` holds the cluster's secret on every node; "" for none.
        """
        self._secret_file = secret_file
        super().__init__(self._start_on_a_node, rules=rules, clock=clock, on_end=on_end)
        self._cluster = cluster
        self._is_loopback = is_loopback

    async def _start_on_a_node(self, spec: LaunchSpec) -> RayInstance:
        actor = self._cluster.host(spec)
        try:
            place = await self._place(actor, spec)
        except BaseException:
            self._cluster.discard(actor)
            raise
        there = moved(spec, host=place.host, port=place.port, python=place.python)
        return RayInstance(self._cluster, actor, there, node=place.node, secret_file=self._secret_file)

    async def _place(self, actor: Any, spec: LaunchSpec) -> HostPlace:
        """Raises ConfigError when Ray has no room for it, or when the cluster could not reach it there."""
        asked = actor.place.remote(LOOPBACK if self._is_loopback else "")
        try:
            async with asyncio.timeout(_PLACE_S):
                place = msgspec.json.decode(await asyncio.wrap_future(asked.future()), type=HostPlace)
        except TimeoutError as error:
            raise ConfigError(
                f"Ray has had no room for {spec.instance} in {_PLACE_S:g} s; free are {self._cluster.free()}: add "
                "nodes, or ask for less with ray.num_cpus, ray.num_gpus and ray.memory"
            ) from error
        except self._cluster.gone as error:
            raise ConfigError(f"Ray cannot start {spec.instance}: {_first_line(error)}") from error
        if self._is_loopback and place.node != self._cluster.node():
            raise ConfigError(
                f"{spec.instance} was placed on node {place.node}, which does not reach a manager on {LOOPBACK}: give "
                "--manager HOST:PORT with an address of this host that all nodes reach"
            )
        return place


async def _check_head(address: str) -> None:
    """Raise OSError at once where nobody listens; Ray would try for a minute."""
    if address == "auto":
        return
    host, port = parse_address(address, "ray.address")
    async with asyncio.timeout(_CONNECT_S):
        _, writer = await asyncio.open_connection(host, port)
    writer.close()
    await writer.wait_closed()


def _notice(run: "asyncio.Future[str]") -> None:
    """Nobody waits any more for one that is stopped: asyncio would call its error lost."""
    if not run.cancelled():
        run.exception()


def _first_line(error: Exception) -> str:
    """Ray's messages go on for pages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__

"""Who runs a cluster's instances, from the settings: made ready for the length of a block."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from memserve.cluster.restarts import RestartRules
from memserve.core.clock import Clock
from memserve.core.enums import LauncherKind
from memserve.core.notation import parse_address
from memserve.manager.launcher import EndListener, Launcher
from memserve.manager.local_launcher import LocalLauncher
from memserve.manager.ray_launcher import RayCluster, RayLauncher
from memserve.serving.prepare import PreparedRun

_LOOPBACKS = ("127.0.0.1", "localhost", "::1")


@asynccontextmanager
async def launching(run: PreparedRun, clock: Clock) -> AsyncIterator[Callable[[EndListener], Launcher]]:
    """Gives what makes the launcher; close that before the block ends. Raises ConfigError when Ray is not there."""
    rules = RestartRules(max_restarts=run.config.cluster.max_restarts)
    if run.config.cluster.launcher is LauncherKind.LOCAL:
        yield lambda on_end: LocalLauncher(
            machine=run.machine, rules=rules, clock=clock, on_end=on_end, secret=run.secret
        )
        return
    host, _ = parse_address(run.config.cluster.manager, "cluster.manager")
    cluster = await RayCluster.connect(run.config.ray, name=run.cluster)
    try:
        yield lambda on_end: RayLauncher(
            cluster,
            is_loopback=host in _LOOPBACKS,
            secret_file=run.config.cluster.secret,
            rules=rules,
            clock=clock,
            on_end=on_end,
        )
    finally:
        await cluster.close()

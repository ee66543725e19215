"""What every process of a gateway has for itself: records, counters, switches, and the clients of the instances.

Owns how they are wired to each other; worker 0 and the further ones differ in the rest.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from memserve.config import ServeConfig
from memserve.core.clock import Clock
from memserve.gateway.metrics import GatewayMetrics
from memserve.gateway.pool_control import RpcPools
from memserve.gateway.records import RequestHistory
from memserve.gateway.release import RpcReleases
from memserve.gateway.reports import ReportLog
from memserve.gateway.switches import Switches
from memserve.scheduler.scheduler import Scheduler
from memserve.security.secret import ClusterSecret
from memserve.serving.autoscaling import service_levels


class GatewayParts:
    def __init__(self, config: ServeConfig, clock: Clock) -> None:
        self.levels = service_levels(config, clock)
        """None where nobody scales by them."""
        self.history = RequestHistory(clock=clock, levels=self.levels)
        self.metrics = GatewayMetrics()
        self.reports = ReportLog(history=self.history, metrics=self.metrics)
        self.switches = Switches()

    def follow(self, scheduler: Scheduler) -> None:
        """Show what it decides, and tell it what instances report."""
        self.metrics.follow(scheduler)
        self.reports.follow(scheduler.answered)


@asynccontextmanager
async def instance_clients(secret: ClusterSecret | None) -> AsyncIterator[tuple[RpcReleases, RpcPools]]:
    """Open for the length of the block."""
    releases, pools = RpcReleases(secret), RpcPools(secret)
    try:
        yield releases, pools
    finally:
        await pools.close()
        await releases.close()

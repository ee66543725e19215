"""Everything the gateway is handed, in one place: no module of it looks anything up by itself.

Owns nothing; built once by whoever wires the process together, or by a test.
"""

from collections.abc import Callable
from dataclasses import dataclass

from memserve.config import GatewaySettings
from memserve.core.enums import AutoscaleMode
from memserve.gateway.metrics import GatewayMetrics
from memserve.gateway.other_workers import NO_OTHERS, OtherWorkers
from memserve.gateway.ports import ElasticCluster, Membership, PoolControl, PromptTokenizer, ReleaseClient
from memserve.gateway.records import RequestHistory
from memserve.gateway.reports import ReportLog
from memserve.gateway.served_model import ServedModel
from memserve.gateway.switches import Switches
from memserve.gateway.tenants import Tenants
from memserve.manager.autoscaling import AutoscalerReport
from memserve.scheduler.scheduler import Scheduler
from memserve.security.secret import ClusterSecret


def no_autoscaler() -> AutoscalerReport:
    """Nobody scales by itself."""
    return AutoscalerReport(mode=AutoscaleMode.OFF)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayContext:
    settings: GatewaySettings
    base_models: frozenset[str]
    """Names under which the engines serve the base model; any other name is an adapter."""
    model: ServedModel
    scheduler: Scheduler
    cluster: Membership
    elasticity: ElasticCluster
    tokenizer: PromptTokenizer
    releases: ReleaseClient
    pools: PoolControl
    history: RequestHistory
    metrics: GatewayMetrics
    reports: ReportLog
    switches: Switches
    workers: OtherWorkers = NO_OTHERS
    """The other processes of this gateway, as worker 0 sees them."""
    id_ending: str = ""
    """Of all requests here; "" where the gateway is one process."""
    secret: ClusterSecret | None = None
    """Of the cluster: the admin API asks for it, and the instances do."""
    tenants: Tenants
    autoscaler: Callable[[], AutoscalerReport] = no_autoscaler
    """What it sees and decides, asked for whenever somebody wants to know."""

"""Prometheus: every number of the gateway and of the cluster behind it.

Owns the registry and the names. Counters are told by whoever sees the fact; gauges of the cluster are
read from the view at each scrape, so they cannot go stale.
"""

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from memserve.cluster.view import ClusterView
from memserve.core.enums import Tier
from memserve.gateway.autoscaler_metrics import AutoscalerCollector
from memserve.gateway.explanation import Step
from memserve.gateway.other_workers import OtherWorkers
from memserve.gateway.path_metrics import PathCollector
from memserve.gateway.scheduler_metrics import SchedulerCollector
from memserve.gateway.worker_metrics import WorkersCollector
from memserve.manager.autoscaling import AutoscalerReport
from memserve.manager.registry import RegistryStats
from memserve.scheduler.scheduler import Scheduler
from memserve.wire.messages import MovedBlocks, PathCheck, RequestReport

_LATENCY_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_TRANSFER_S = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)
_RATIOS = (0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0)
_HOP = ("source", "target", "path")


class GatewayMetrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        """What this process counts."""
        self._of_cluster = CollectorRegistry()
        """What is so whoever tells it."""
        counter = _counters(self.registry)
        self.requests = counter("memserve_gateway_requests", "HTTP requests by outcome", ("route", "status"))
        self.failovers = counter("memserve_gateway_failovers", "Requests sent elsewhere after a fault", ("instance",))
        self.resumes = counter("memserve_gateway_resumes", "Streams carried on after a fault", ("instance",))
        self.retries_refused = counter("memserve_gateway_retries_refused", "Retries beyond the budget", ())
        self.first_tokens_early = counter(
            "memserve_gateway_first_tokens_early", "Answers that began with the prefill instance's token", ()
        )
        self._retries_left = Gauge(
            "memserve_gateway_retries_left", "Retries that the budget still allows", registry=self.registry
        )
        self.unrouted = counter("memserve_gateway_untokenized_requests", "Requests routed without their prefix", ())
        self._prompt_tokens = counter(
            "memserve_instance_prompt_tokens", "Where prompt tokens came from", ("instance", "source")
        )
        self._output_tokens = counter("memserve_instance_output_tokens", "Generated tokens", ("instance",))
        self._moved = {
            what: counter(f"memserve_transfer_{what}", f"{what.capitalize()} moved between instances", _HOP)
            for what in ("tokens", "bytes", "blocks", "calls")
        }
        self._transfer_s = Histogram(
            "memserve_transfer_seconds", "Time of one hand-over", _HOP, buckets=_TRANSFER_S, registry=self.registry
        )
        self.ttft_s = Histogram(
            "memserve_gateway_ttft_seconds", "Until the first bytes of a stream", buckets=_LATENCY_S,
            registry=self.registry,
        )  # fmt: skip
        self._queue_s = Histogram(
            "memserve_gateway_queue_seconds", "Until a request had a slot", ("tenant",), buckets=_LATENCY_S,
            registry=self.registry,
        )  # fmt: skip
        self.request_s = Histogram(
            "memserve_gateway_request_seconds", "Whole requests", ("route",), buckets=_LATENCY_S, registry=self.registry
        )
        self._predictions = Histogram(
            "memserve_scheduler_actual_over_predicted", "What a step took over what was predicted", ("step",),
            buckets=_RATIOS, registry=self.registry,
        )  # fmt: skip
        # Looked up by labels once, which takes longer than counting.
        self._ended: dict[tuple[str, str], tuple[Counter, Histogram]] = {}
        self._waited: dict[str, Histogram] = {}
        self._judged: dict[str, Histogram] = {}

    def show_cluster(self, view: Callable[[], ClusterView]) -> None:
        """The instances, as they are at each scrape."""
        self._of_cluster.register(_ViewCollector(view))

    def follow(self, scheduler: Scheduler) -> None:
        """Show the scheduler's numbers, too."""
        self.registry.register(SchedulerCollector(scheduler))

    def show_paths(self, checks: Callable[[], tuple[PathCheck, ...]]) -> None:
        """Which ways between the instances work, read at each scrape."""
        self._of_cluster.register(PathCollector(checks))

    def show_autoscaler(self, report: Callable[[], AutoscalerReport]) -> None:
        """What it sees and decides, read at each scrape."""
        self._of_cluster.register(AutoscalerCollector(report))

    def show_registry(self, stats: Callable[[], RegistryStats]) -> None:
        """Whether what happens to members is told, read at each scrape."""
        up = Gauge("memserve_registry_up", "1: the registry tells who is in the cluster", registry=self._of_cluster)
        up.set_function(lambda: float(stats().is_up))
        away = Gauge("memserve_registry_outages", "Times that it did not, since the start", registry=self._of_cluster)
        away.set_function(lambda: stats().num_outages)

    def show_waiting(self, num_waiting: Callable[[], dict[str, int]]) -> None:
        """How many requests of each tenant wait for a slot, read at each scrape."""
        self.registry.register(_WaitingCollector(num_waiting))

    def show_retry_budget(self, num_left: Callable[[], int]) -> None:
        """Asked at each scrape."""
        self._retries_left.set_function(num_left)

    def show_workers(self, others: OtherWorkers) -> None:
        """Which processes of the gateway serve, read at each scrape."""
        self._of_cluster.register(WorkersCollector(others))

    def exposition(self) -> bytes:
        """The text that a scrape gets where the gateway is one process."""
        return self.own() + self.of_cluster()

    def own(self) -> bytes:
        """What this process counts, as text."""
        return generate_latest(self.registry)

    def of_cluster(self) -> bytes:
        """What is so whoever tells it, as text."""
        return generate_latest(self._of_cluster)

    def request_ended(self, route: str, status: str, *, seconds: float) -> None:
        """Count a request by its outcome, and the time that it took."""
        found = self._ended.get((route, status))
        if found is None:
            found = self._ended[route, status] = (
                self.requests.labels(route, status),
                self.request_s.labels(route),
            )
        requests, request_s = found
        requests.inc()
        request_s.observe(seconds)

    def request_waited(self, tenant: str, *, seconds: float) -> None:
        """Note how long a request waited for its slot."""
        found = self._waited.get(tenant)
        if found is None:
            found = self._waited[tenant] = self._queue_s.labels(tenant)
        found.observe(seconds)

    def judge(self, steps: Iterable[Step]) -> None:
        """Hold what was predicted for a request against what it took, where both are known."""
        for step in steps:
            if step.predicted_s and step.actual_s:
                found = self._judged.get(step.what)
                if found is None:
                    found = self._judged[step.what] = self._predictions.labels(step.what)
                found.observe(step.actual_s / step.predicted_s)

    def count_report(self, report: RequestReport) -> None:
        sources = {
            "hbm": report.hbm_tokens,
            "dram": report.dram_tokens,
            "disk": report.disk_tokens,
            "received": report.received_tokens,
            "computed": report.computed_tokens,
        }
        for source, num_tokens in sources.items():
            self._prompt_tokens.labels(report.instance, source).inc(num_tokens)
        self._output_tokens.labels(report.instance).inc(report.output_tokens)
        for moved in report.moved:
            self._count_moved(moved)

    def _count_moved(self, moved: MovedBlocks) -> None:
        hop = (moved.source, moved.target, moved.path)
        self._moved["tokens"].labels(*hop).inc(moved.num_tokens)
        self._moved["bytes"].labels(*hop).inc(moved.num_bytes)
        self._moved["blocks"].labels(*hop).inc(moved.num_blocks)
        self._moved["calls"].labels(*hop).inc(moved.num_calls)
        self._transfer_s.labels(*hop).observe(moved.seconds)


def _counters(registry: CollectorRegistry) -> Callable[[str, str, tuple[str, ...]], Counter]:
    return lambda name, text, labels: Counter(name, text, labels, registry=registry)


class _WaitingCollector(Collector):
    def __init__(self, num_waiting: Callable[[], dict[str, int]]) -> None:
        self._num_waiting = num_waiting

    def collect(self) -> Iterator[GaugeMetricFamily]:
        waiting = GaugeMetricFamily(
            "memserve_gateway_waiting_requests", "Requests that wait for a slot", labels=("tenant",)
        )
        for tenant, number in self._num_waiting().items():
            waiting.add_metric((tenant,), number)
        yield waiting


class _ViewCollector(Collector):
    """Gauges of the cluster, as it is at the scrape."""

    def __init__(self, view: Callable[[], ClusterView]) -> None:
        self._view = view

    def collect(self) -> Iterator[Metric]:
        view = self._view()
        instances = GaugeMetricFamily(
            "memserve_cluster_instances", "Instances by role and state", labels=("role", "state")
        )
        for (role, state), number in Tally((i.role.value, i.state.value) for i in view.instances).items():
            instances.add_metric((role, state), number)
        yield instances
        yield GaugeMetricFamily("memserve_cluster_epoch", "Number of the cluster view", value=view.epoch)
        yield from self._loads(view)

    def _loads(self, view: ClusterView) -> Iterator[Metric]:
        requests = GaugeMetricFamily(
            "memserve_instance_requests", "Requests inside an engine", labels=("instance", "state")
        )
        blocks = GaugeMetricFamily("memserve_pool_blocks", "Blocks of a pool", labels=("instance", "tier", "state"))
        for instance in view.instances:
            requests.add_metric((instance.instance, "running"), instance.load.num_running)
            requests.add_metric((instance.instance, "waiting"), instance.load.num_waiting)
            for tier in instance.load.pool:
                name = Tier(tier.tier).name.lower()
                states = {
                    "free": tier.num_free,
                    "reserved": tier.num_reserved,
                    "cached": tier.num_cached,
                    "leased": tier.num_leased,
                    "total": tier.num_blocks,
                }
                for state, number in states.items():
                    blocks.add_metric((instance.instance, name, state), number)
        yield requests
        yield blocks
        yield from self._disks(view)
        offloaded = CounterMetricFamily(
            "memserve_pool_offloaded_blocks", "Blocks that a pool has moved to memory instances", labels=("instance",)
        )
        for instance in view.instances:
            offloaded.add_metric((instance.instance,), instance.load.num_offloaded)
        yield offloaded

    def _disks(self, view: ClusterView) -> Iterator[CounterMetricFamily]:
        counts = CounterMetricFamily(
            "memserve_pool_disk_blocks", "What a pool's disk tier has done", labels=("instance", "what")
        )
        for instance in view.instances:
            disk = instance.load.disk
            for name in disk.__struct_fields__ if disk is not None else ():
                counts.add_metric((instance.instance, name.removeprefix("num_")), getattr(disk, name))
        yield counts

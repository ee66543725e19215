"""Prometheus: what several processes count, as one page.

Owns the label `worker`, which every series has that each of them counts by itself, so that one that starts again is
a reset of its own series and of nothing else. What is so whoever tells it has no such label, and worker 0 tells it.
"""

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from memserve.gateway.other_workers import OtherWorkers


def labelled(pages: Mapping[int, bytes]) -> bytes:
    """What the workers count by themselves, by number, on one page."""
    families: dict[str, Metric] = {}
    for worker, page in pages.items():
        for family in text_string_to_metric_families(page.decode()):
            known = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            known.samples += [s._replace(labels={"worker": str(worker), **s.labels}) for s in family.samples]
    registry = CollectorRegistry()
    registry.register(_Given(list(families.values())))
    return generate_latest(registry)


class _Given(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)


class WorkersCollector(Collector):
    """Which processes serve."""

    def __init__(self, others: OtherWorkers) -> None:
        self._others = others

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("memserve_gateway_worker_up", "1: this process serves", labels=("worker",))
        up.add_metric(("0",), 1)
        restarts = CounterMetricFamily(
            "memserve_gateway_worker_restarts", "Times that this process was started again", labels=("worker",)
        )
        for state in self._others.states():
            up.add_metric((str(state.worker),), float(bool(state.pid)))
            restarts.add_metric((str(state.worker),), state.num_restarts)
        yield from (up, restarts)

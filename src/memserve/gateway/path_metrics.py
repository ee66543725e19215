"""Prometheus: which ways between the instances were tried out, and which of them do not work. Read at each scrape."""

from collections.abc import Callable, Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from memserve.wire.messages import PathCheck


class PathCollector(Collector):
    def __init__(self, checks: Callable[[], tuple[PathCheck, ...]]) -> None:
        self._checks = checks

    def collect(self) -> Iterator[Metric]:
        works = GaugeMetricFamily(
            "memserve_cluster_path_works",
            "1 where a block of the source arrived at the target as it was, 0 where it did not",
            labels=("source", "target", "path"),
        )
        for check in self._checks():
            if check.is_possible and check.answered:
                works.add_metric((check.source, check.target, check.path), float(check.is_right))
        yield works

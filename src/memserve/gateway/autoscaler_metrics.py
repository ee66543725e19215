"""Prometheus: what the autoscaler sees and decides. Read at each scrape; owns the names."""

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from memserve.manager.autoscaling import AutoscalerReport, Outcome


class AutoscalerCollector(Collector):
    def __init__(self, report: Callable[[], AutoscalerReport]) -> None:
        self._report = report

    def collect(self) -> Iterator[Metric]:
        report = self._report()
        decided = CounterMetricFamily(
            "memserve_autoscaler_changes",
            "Changes that the autoscaler wanted, by what became of them",
            labels=("outcome",),
        )
        for outcome in Outcome:
            decided.add_metric((outcome,), report.counts.get(outcome, 0))
        yield decided
        levels = report.levels
        yield GaugeMetricFamily(
            "memserve_autoscaler_ttft_seconds", "What the wanted share of first tokens keeps", value=levels.ttft_s
        )
        yield GaugeMetricFamily(
            "memserve_autoscaler_tpot_seconds", "What the wanted share of answers keeps a token", value=levels.tpot_s
        )
        yield GaugeMetricFamily(
            "memserve_autoscaler_prompts", "Requests that wait for their first token", value=levels.num_prompts
        )

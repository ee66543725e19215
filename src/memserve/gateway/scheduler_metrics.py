"""Prometheus: what the scheduler decides, and how fresh its picture of the instances is, read at each scrape.

Owns the names. An instance that left has no series any more; one that comes back counts from zero.
"""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from memserve.scheduler.event_feeds import EventStats
from memserve.scheduler.scheduler import Scheduler


class SchedulerCollector(Collector):
    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def collect(self) -> Iterator[Metric]:
        decisions = CounterMetricFamily(
            "memserve_scheduler_decisions", "Requests routed, by policy and placement", labels=("policy", "placement")
        )
        for labels, number in self._scheduler.decision_counts().items():
            decisions.add_metric(labels, number)
        yield decisions
        yield from self._events(self._scheduler.event_stats())

    def _events(self, stats: EventStats) -> Iterator[Metric]:
        lag = GaugeMetricFamily(
            "memserve_scheduler_event_lag_seconds",
            "Age of what is known of an instance's pool, at most; up to a second when nothing happens",
            labels=("instance",),
        )
        events = CounterMetricFamily(
            "memserve_scheduler_events", "Events of pools applied to the prompt trees", labels=("instance", "kind")
        )
        for feed in stats.feeds:
            lag.add_metric((feed.instance,), feed.lag_s)
            for kind, number in feed.num_events.items():
                events.add_metric((feed.instance, kind), number)
        discards = CounterMetricFamily(
            "memserve_scheduler_event_discards",
            "Events that changed nothing; the instance is empty for those that nobody follows",
            labels=("instance", "reason"),
        )
        for (instance, reason), number in stats.discarded.items():
            discards.add_metric((instance, reason), number)
        yield from (lag, events, discards)

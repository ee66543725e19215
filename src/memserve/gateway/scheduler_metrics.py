"""Prometheus: how fresh the scheduler's picture of the instances is, read at each scrape.

Owns the names. An instance that left has no series any more; one that comes back counts from zero.
"""

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from memserve.scheduler.event_feeds import EventStats


class SchedulerCollector(Collector):
    def __init__(self, stats: Callable[[], EventStats]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        stats = self._stats()
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

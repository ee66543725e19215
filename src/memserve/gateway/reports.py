"""Facts from the instances: each report becomes part of its request's record and of the counters, once.

Owns nothing but the path. Reports come through the cluster manager when an instance is done with a request,
sends and saves included; a repeat changes nothing. What a prefill answer carries is only its first half.
"""

from collections.abc import Callable

from memserve.gateway.metrics import GatewayMetrics
from memserve.gateway.records import RequestHistory
from memserve.wire.messages import RequestReport


class ReportLog:
    def __init__(self, *, history: RequestHistory, metrics: GatewayMetrics) -> None:
        self._history = history
        self._metrics = metrics
        self._learners: list[Callable[[RequestReport], None]] = []

    def follow(self, learn: Callable[[RequestReport], None]) -> None:
        """Hand each report on, once."""
        self._learners.append(learn)

    def ingest_own(self, report: RequestReport) -> None:
        """As `ingest`, where reports come to several gateways: only of what was asked for here."""
        if self._history.find(report.request) is not None:
            self.ingest(report)

    def ingest(self, report: RequestReport) -> None:
        """Take a report in; a repeat changes nothing. Fits the manager's on_report."""
        if self._history.add_report(report):
            self._metrics.count_report(report)
            for learn in self._learners:
                learn(report)

"""What became of each request, kept for a while: decisions, reports, times.

Owns the bounded history (oldest out) and the rule that a report counts once per (request, instance,
phase). Never holds prompts or outputs.
"""

from collections import OrderedDict
from enum import StrEnum
from itertools import islice

import msgspec

from memserve.cluster.service_levels import ServiceLevels
from memserve.core.clock import Clock
from memserve.core.enums import Phase
from memserve.core.ids import RequestId
from memserve.scheduler.decision import Decision
from memserve.wire.messages import RequestReport

MAX_RECORDS = 10_000


class RequestState(StrEnum):
    RUNNING = "running"
    SERVED = "served"
    REFUSED = "refused"
    """The engine answered 4xx."""
    FAILED = "failed"
    DISCONNECTED = "disconnected"


class AnswerForm(StrEnum):
    """How a client wants its answer."""

    WHOLE = "whole"
    STREAM = "stream"


class RequestRecord(msgspec.Struct, frozen=True, kw_only=True):
    request: RequestId
    route: str
    started: float
    """Clock seconds."""
    state: RequestState = RequestState.RUNNING
    status: int | None = None
    model: str = ""
    prompt_tokens: int | None = None
    """As tokenised for routing; None when it was not."""
    decided_s: float | None = None
    """When it was decided, the last time; in seconds since `started`, as the next ones."""
    prefilled_s: float | None = None
    """When the prefill instance had answered; None when one instance did all."""
    ttft_s: float | None = None
    seconds: float | None = None
    error: str = ""
    decisions: tuple[Decision, ...] = ()
    """More than one when instances failed."""
    reports: tuple[RequestReport, ...] = ()
    began_early: bool = False
    """The first token was the prefill instance's; the decode instance went on after it."""
    resumed_at: tuple[int, ...] = ()
    """Each time another instance carried the stream on: output tokens that it did not have to produce again."""


class RequestHistory:
    """The last `max_records` requests by id."""

    def __init__(self, *, clock: Clock, max_records: int = MAX_RECORDS, levels: ServiceLevels | None = None) -> None:
        """`levels`, if there are any, are told when a request of a client came, began to be answered, and ended."""
        self._levels = levels
        self._clock = clock
        self._max_records = max_records
        self._records: OrderedDict[RequestId, RequestRecord] = OrderedDict()

    def __contains__(self, request: RequestId) -> bool:
        return request in self._records

    def find(self, request: RequestId) -> RequestRecord | None:
        return self._records.get(request)

    def latest(self, limit: int) -> list[RequestRecord]:
        """Newest first."""
        return list(islice(reversed(self._records.values()), max(0, limit)))

    def open(self, request: RequestId, *, route: str) -> None:
        self._store(RequestRecord(request=request, route=route, started=self._clock.now()))

    def understood(
        self, request: RequestId, *, model: str, prompt_tokens: int | None, form: AnswerForm = AnswerForm.WHOLE
    ) -> None:
        self._change(request, model=model, prompt_tokens=prompt_tokens)
        record = self._records.get(request)
        if record is not None and self._levels is not None:
            began = self._levels.began if form is AnswerForm.STREAM else self._levels.began_whole
            began(request, at=record.started)

    def decided(self, decision: Decision) -> None:
        record = self._records.get(decision.request)
        if record is not None:
            at = self._clock.now() - record.started
            self._change(decision.request, decisions=(*record.decisions, decision), decided_s=at)

    def prefilled(self, request: RequestId) -> None:
        """Note that the prefill instance has answered."""
        record = self._records.get(request)
        if record is not None:
            self._change(request, prefilled_s=self._clock.now() - record.started)

    def began_early(self, request: RequestId) -> None:
        """The prefill instance's token is the answer's first."""
        self._change(request, began_early=True)

    def resumed(self, request: RequestId, *, at: int) -> None:
        """The stream goes on elsewhere after `at` output tokens."""
        record = self._records.get(request)
        if record is not None:
            self._change(request, resumed_at=(*record.resumed_at, at))

    def first_bytes(self, request: RequestId) -> float:
        """Note the first bytes to the client; seconds since the request came."""
        record = self._records.get(request)
        if record is None:
            return 0.0
        ttft_s = self._clock.now() - record.started
        self._change(request, ttft_s=ttft_s)
        if self._levels is not None:
            self._levels.first_token(request)
        return ttft_s

    def close(self, request: RequestId, *, state: RequestState, status: int | None, error: str) -> float:
        """Note the end; seconds since the request came."""
        record = self._records.get(request)
        if record is None:
            return 0.0
        seconds = self._clock.now() - record.started
        self._change(request, state=state, status=status, error=error, seconds=seconds)
        if self._levels is not None:
            ended = self._levels.ended if state is RequestState.SERVED else self._levels.dropped
            ended(request)
        return seconds

    def add_report(self, report: RequestReport) -> bool:
        """False when this very report is known already."""
        record = self._records.get(report.request)
        if record is None:
            record = RequestRecord(request=report.request, route="", started=self._clock.now())
        if any((r.instance, r.phase, r.part) == (report.instance, report.phase, report.part) for r in record.reports):
            return False
        self._store(msgspec.structs.replace(record, reports=(*record.reports, report)))
        if self._levels is not None and report.phase is not Phase.PREFILL:
            self._levels.produced(report.request, report.output_tokens)
        return True

    def _change(self, request: RequestId, **changes: object) -> None:
        record = self._records.get(request)
        if record is not None:
            self._records[request] = msgspec.structs.replace(record, **changes)

    def _store(self, record: RequestRecord) -> None:
        self._records[record.request] = record
        while len(self._records) > self._max_records:
            self._records.popitem(last=False)

    def __repr__(self) -> str:
        return f"RequestHistory({len(self._records)}/{self._max_records})"

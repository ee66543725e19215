"""The history of requests: bounded, oldest out, reports once each."""

from memserve.core.clock import ManualClock
from memserve.core.enums import Phase
from memserve.core.ids import InstanceId, RequestId
from memserve.gateway.records import RequestHistory, RequestState
from memserve.wire.messages import RequestReport


def report(request: str, instance: str, phase: Phase) -> RequestReport:
    return RequestReport(
        request=RequestId(request), instance=InstanceId(instance), phase=phase, prompt_tokens=4, hbm_tokens=0,
        dram_tokens=0, received_tokens=0, computed_tokens=4, output_tokens=1,
    )  # fmt: skip


def test_the_oldest_record_goes_first() -> None:
    history = RequestHistory(clock=ManualClock(), max_records=2)
    for name in ("a", "b", "c"):
        history.open(RequestId(name), route="/x")
    assert [r.request for r in history.latest(10)] == ["c", "b"]
    assert RequestId("a") not in history


def test_times_are_seconds_since_the_request_came() -> None:
    clock = ManualClock(5.0)
    history = RequestHistory(clock=clock)
    history.open(RequestId("a"), route="/x")
    clock.advance(0.5)
    assert history.first_bytes(RequestId("a")) == 0.5
    clock.advance(1.5)
    assert history.close(RequestId("a"), state=RequestState.SERVED, status=200, error="") == 2.0


def test_a_report_counts_once_per_instance_and_phase() -> None:
    history = RequestHistory(clock=ManualClock())
    told = [report("a", "p0", Phase.PREFILL), report("a", "d0", Phase.DECODE), report("a", "d0", Phase.WHOLE)]
    assert [history.add_report(r) for r in [*told, *told]] == [True] * 3 + [False] * 3


def test_a_record_that_is_gone_can_still_be_closed() -> None:
    history = RequestHistory(clock=ManualClock(), max_records=1)
    history.open(RequestId("a"), route="/x")
    history.open(RequestId("b"), route="/x")
    assert history.close(RequestId("a"), state=RequestState.SERVED, status=200, error="") == 0.0
    assert history.first_bytes(RequestId("a")) == 0.0

"""From requests to numbers, and when a rate was too much."""

import pytest

from memserve.bench.serve.measures import is_saturated, times_of
from memserve.bench.serve.record import RequestLine


def line(*, at: float, ttft: float = 1.0, jct: float = 2.0, output: int = 11) -> RequestLine:
    return RequestLine(
        system="s", workload="w", rate=1.0, repetition=1, session=0, turn=0, arrival_s=at, prompt_tokens=10,
        output_tokens=output, cached_tokens=None, ttft_s=ttft, jct_s=jct, answer="",
    )  # fmt: skip


def test_times_are_averages_and_percentiles_over_requests() -> None:
    times = times_of([line(at=0, ttft=1, jct=2), line(at=5, ttft=3, jct=5)])

    assert (times.ttft_avg_s, times.ttft_p50_s, times.jct_avg_s) == (2.0, 2.0, 3.5)
    assert times.ttft_p99_s == pytest.approx(2.98)
    assert times.tpot_avg_s == pytest.approx(0.15)
    assert (times.seconds, times.requests_per_s, times.tokens_per_s) == (10.0, 0.2, 2.2)


def test_an_answer_of_one_token_has_no_time_a_token() -> None:
    assert times_of([line(at=0, output=1), line(at=0, output=11)]).tpot_avg_s == pytest.approx(0.1)


def test_a_rate_at_which_requests_pile_up_is_saturated() -> None:
    piling = [line(at=float(at), jct=60.0 - at) for at in range(30)]
    steady = [line(at=float(at), jct=4.0) for at in range(30)]

    assert is_saturated(piling, last_arrival_s=30.0)
    assert not is_saturated(steady, last_arrival_s=30.0)


def test_a_few_slow_requests_are_no_saturation() -> None:
    assert not is_saturated([line(at=float(at), jct=60.0) for at in (0, 20, 25)], last_arrival_s=30.0)

"""From the requests of a cell to its numbers. Pure.

A rate is more than a system sustains when requests pile up for as long as new sessions come: more of them are in
the system in the last third of the arrivals than in the middle third, by half again, and more than a few for each
instance; or when one ran into its deadline.
"""

from collections.abc import Sequence

import msgspec
import numpy as np

from memserve.bench.serve.record import RequestLine

_GROWTH = 1.5
_FEW = 8.0
"""In the system at the same time, on average: four for each of two instances are served side by side well."""


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """Field names are those of ServeResult."""

    ttft_avg_s: float
    ttft_p50_s: float
    ttft_p99_s: float
    tpot_avg_s: float
    tpot_p50_s: float
    tpot_p99_s: float
    jct_avg_s: float
    jct_p50_s: float
    jct_p99_s: float
    seconds: float
    requests_per_s: float
    tokens_per_s: float


def times_of(lines: Sequence[RequestLine]) -> Times:
    """Of at least one answered request."""
    ttft = [line.ttft_s for line in lines]
    jct = [line.jct_s for line in lines]
    tpot = [(line.jct_s - line.ttft_s) / (line.output_tokens - 1) for line in lines if line.output_tokens > 1] or [0.0]
    seconds = max(line.arrival_s + line.jct_s for line in lines) - min(line.arrival_s for line in lines)
    return Times(
        ttft_avg_s=_mean(ttft), ttft_p50_s=_at(ttft, 50), ttft_p99_s=_at(ttft, 99),
        tpot_avg_s=_mean(tpot), tpot_p50_s=_at(tpot, 50), tpot_p99_s=_at(tpot, 99),
        jct_avg_s=_mean(jct), jct_p50_s=_at(jct, 50), jct_p99_s=_at(jct, 99),
        seconds=round(seconds, 4),
        requests_per_s=round(len(lines) / seconds, 4),
        tokens_per_s=round(sum(line.output_tokens for line in lines) / seconds, 4),
    )  # fmt: skip


def is_saturated(lines: Sequence[RequestLine], *, last_arrival_s: float) -> bool:
    """Whether requests piled up while sessions came, the last of them at `last_arrival_s`."""
    third = last_arrival_s / 3
    middle, last = (_in_flight(lines, begin=third * part, end=third * (part + 1)) for part in (1, 2))
    return last > _FEW and last > _GROWTH * middle


def _in_flight(lines: Sequence[RequestLine], *, begin: float, end: float) -> float:
    """Requests in the system between two times, on average."""
    if end <= begin:
        return 0.0
    overlaps = (min(end, line.arrival_s + line.jct_s) - max(begin, line.arrival_s) for line in lines)
    return sum(max(0.0, overlap) for overlap in overlaps) / (end - begin)


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 5)


def _at(values: Sequence[float], percent: float) -> float:
    return round(float(np.percentile(values, percent)), 5)

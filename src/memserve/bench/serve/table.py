"""The results as a person reads them: a block for each rate, a line for each system. Owns the layout only.

Every number is the median over repetitions that were not saturated, with the least and the most of them behind it
where there are several.
"""

from collections.abc import Iterator, Sequence
from statistics import median

from memserve.bench.serve.record import ServeReport, ServeResult

_HEADER = (
    *("system", "TTFT avg s", "p50", "p99", "TPOT avg ms", "JCT avg s", "p50", "p99", "requests/s", "tokens/s"),
    *("hit %", "engine", "DRAM", "disk", "moved MiB", "CPU s", "same"),
)


def as_serve_lines(report: ServeReport) -> Iterator[str]:
    """Tables of all rates; then how lengths were scaled, and what was missing."""
    for workload, rate in sorted({(result.workload, result.rate) for result in report.results}):
        cell = [result for result in report.results if (result.workload, result.rate) == (workload, rate)]
        first = cell[0]
        yield (
            f"{workload}, {rate:g} sessions/s, {first.sessions} sessions, seed {report.seed}, "
            f"commit {report.commit or 'unknown'}: medians over repetitions"
        )
        yield from _aligned([_HEADER, *(_row(system, cell) for system in dict.fromkeys(r.system for r in cell))])
        yield f"same: answers that are those of {first.reference}, token by token"
        yield ""
    yield f"lengths: {report.scaling}"
    for missing in report.missing:
        yield f"missing: {missing.system}: {missing.reason}"


def _row(system: str, cell: Sequence[ServeResult]) -> tuple[str, ...]:
    every = [result for result in cell if result.system == system]
    sustained = [result for result in every if not result.is_saturated]
    if not sustained:
        return (system, "saturated: the system does not sustain this rate")
    count = f" ({len(sustained)} of {len(every)})" if len(sustained) < len(every) else ""
    num_failed = sum(result.failed for result in every)
    count += f", {num_failed} failed" if num_failed else ""
    return (
        f"{system}{count}",
        _spread([r.ttft_avg_s for r in sustained]),
        *(_median([getattr(r, name) for r in sustained]) for name in ("ttft_p50_s", "ttft_p99_s")),
        _spread([r.tpot_avg_s * 1e3 for r in sustained], digits=0),
        _spread([r.jct_avg_s for r in sustained]),
        _median([r.jct_p50_s for r in sustained]),
        _spread([r.jct_p99_s for r in sustained]),
        _median([r.requests_per_s for r in sustained]),
        _median([r.tokens_per_s for r in sustained], digits=1),
        *(_percent([getattr(r, name) for r in sustained]) for name in _HITS),
        _median([r.moved_bytes / 2**20 for r in sustained if r.moved_bytes is not None], digits=0),
        _median([r.cpu_s for r in sustained], digits=0),
        f"{sum(r.num_identical for r in sustained)} of {sum(r.requests for r in sustained)}",
    )


_HITS = ("hit_ratio", "hbm_hit_ratio", "dram_hit_ratio", "disk_hit_ratio")


def _median(values: Sequence[float], *, digits: int = 2) -> str:
    return f"{median(values):.{digits}f}" if values else "-"


def _spread(values: Sequence[float], *, digits: int = 2) -> str:
    if len(values) < 2:
        return _median(values, digits=digits)
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def _percent(values: Sequence[float | None]) -> str:
    return _median([value * 100 for value in values if value is not None], digits=0)


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A row that is short holds words for all columns that it lacks."""
    full = [row for row in rows if len(row) == len(_HEADER)]
    first = max(len(row[0]) for row in rows)
    widths = [first, *(max(len(row[column]) for row in full) for column in range(1, len(_HEADER)))]
    for row in rows:
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=False)).rstrip()

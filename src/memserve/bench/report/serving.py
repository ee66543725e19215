"""The sections of `memserve bench serve`: times over the rate by system, all numbers, and the gains over PD-Basic."""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from memserve.bench.charts import BarChart, Bars, Line, LineChart
from memserve.bench.report.gains import FIELDS, PAPER, Gain, gains
from memserve.bench.report.section import Block, Drawing, Section, missing_lines, origin, read_json, table
from memserve.bench.serve.record import ServeReport, ServeResult, read_results
from memserve.core.errors import ConfigError

WORKLOADS = ("sharegpt", "loogle", "react")
OPTIONS = (
    "--systems vllm,vllm-apc,vllm-nixl,colocated,auto,basic,prefill,both,return,basic-by-layer,return-by-layer "
    "--rate 0.1,0.3,0.6"
)
"""Of the full evaluation."""
_NAMES = {
    "ttft_avg_s": "TTFT average",
    "ttft_p99_s": "TTFT P99",
    "tpot_avg_s": "TPOT average",
    "jct_avg_s": "JCT average",
    "jct_p99_s": "JCT P99",
}
_DRAWN = ("ttft_avg_s", "jct_avg_s", "jct_p99_s")
_MIB = 1 << 20


def serving_sections() -> list[Section]:
    """One for each workload of the paper."""
    return [
        Section(
            name=f"serve-{workload}",
            file=f"serve-{workload}.jsonl",
            command=(
                f"memserve bench serve --workload {workload} {OPTIONS} --json benchmarks/results/serve-{workload}.json"
            ),
            build=_build,
        )
        for workload in WORKLOADS
    ]


def _build(file: Path) -> Block:
    results = read_results(file)
    if not results:
        raise ConfigError(f"{file} holds no finished cell: run the command again, it goes on where it ended")
    whole = file.with_suffix(".json")
    lines = [*table(_rows(results)), "", *_notes(results)]
    found = gains(results)
    workload = results[0].workload
    charts = tuple(_over_rate(results))
    drawings = [Drawing(name=f"serve-{workload}", alt=f"{workload} over the rate", charts=charts)] if charts else []
    if found:
        lines += ["", *_gain_lines(found, workload)]
        chart = _gain_chart(found, workload)
        drawings.append(Drawing(name=f"gains-{workload}", alt=f"{workload}: gains over PD-Basic", charts=(chart,)))
    if whole.exists():
        report = read_json(whole, ServeReport)
        lines += ["", f"Lengths: {report.scaling}", *missing_lines(report.missing)]
        lines += origin(report, seed=report.seed, more=_older(results, report.commit))
    else:
        lines += ["", f"*{_unfinished(results)}*"]
    return Block(lines=tuple(lines), drawings=tuple(drawings))


def _rows(results: Sequence[ServeResult]) -> list[list[str]]:
    rows = [["system", "rate, sessions/s", "n", *(f"{name}, s" for name in _NAMES.values()), *_MORE]]
    for (system, rate), cells in _cells(results).items():
        times = [_spread([getattr(cell, field) for cell in cells]) for field in _NAMES]
        saturated = " (saturated)" if any(cell.is_saturated for cell in cells) else ""
        more = [cell_of(cells) for cell_of in _MORE.values()]
        rows.append([system, f"{rate:g}{saturated}", str(len(cells)), *times, *more])
    return rows


def _cells(results: Sequence[ServeResult]) -> dict[tuple[str, float], list[ServeResult]]:
    """Repetitions of each system at each rate."""
    found: dict[tuple[str, float], list[ServeResult]] = {}
    for result in sorted(results, key=lambda result: result.rate):
        found.setdefault((result.system, result.rate), []).append(result)
    order = list(dict.fromkeys(result.system for result in results))
    return dict(sorted(found.items(), key=lambda item: (order.index(item[0][0]), item[0][1])))


def _hits(cells: Sequence[ServeResult]) -> str:
    known = [cell.hit_ratio for cell in cells if cell.hit_ratio is not None]
    return f"{100 * median(known):.0f} %" if known else ""


def _moved(cells: Sequence[ServeResult]) -> str:
    known = [cell.moved_bytes / _MIB for cell in cells if cell.moved_bytes is not None]
    return f"{median(known):,.0f}" if known else ""


def _identical(cells: Sequence[ServeResult]) -> str:
    same, all_of_them = sum(cell.num_identical for cell in cells), sum(cell.requests for cell in cells)
    return f"{same} of {all_of_them}"


_MORE: dict[str, Callable[[Sequence[ServeResult]], str]] = {
    "hit ratio": _hits,
    "moved, MiB": _moved,
    "CPU, s": lambda cells: f"{median(cell.cpu_s for cell in cells):.0f}",
    "requests/s": lambda cells: f"{median(cell.requests_per_s for cell in cells):.2f}",
    "same tokens": _identical,
}


def _notes(results: Sequence[ServeResult]) -> list[str]:
    text = ["Medians over the repetitions (n), with the lowest and the highest in brackets."]
    failed = sum(result.failed for result in results)
    if failed:
        text.append(f"{failed} requests failed and count nowhere else.")
    if any(result.is_saturated for result in results):
        text.append("Saturated: the rate is more than the system sustains; its times are neither drawn nor compared.")
    return [" ".join(text)]


def _over_rate(results: Sequence[ServeResult]) -> list[LineChart]:
    sustained = _cells([result for result in results if not result.is_saturated])
    systems = list(dict.fromkeys(system for system, _ in sustained))
    if not systems:
        return []
    return [
        LineChart(
            title=_NAMES[field],
            x="rate (sessions/s)",
            y=f"{_NAMES[field]} (s)",
            lines=tuple(_line(system, sustained, field) for system in systems),
        )
        for field in _DRAWN
    ]


def _line(system: str, sustained: dict[tuple[str, float], list[ServeResult]], field: str) -> Line:
    places = {rate: [getattr(c, field) for c in cells] for (name, rate), cells in sustained.items() if name == system}
    return Line(
        label=system,
        x=tuple(places),
        y=tuple(median(values) for values in places.values()),
        low=tuple(min(values) for values in places.values()),
        high=tuple(max(values) for values in places.values()),
    )


def _gain_lines(found: Sequence[Gain], workload: str) -> list[str]:
    rows = [["change over PD-Basic", *(_NAMES[field] for field in FIELDS), "cells compared"]]
    rows += [[gain.system, *(f"{gain.change[field]:+.1f} %" for field in FIELDS), str(gain.pairs)] for gain in found]
    if workload in PAPER:
        rows.append(["*the paper's, with caching*", *(f"{PAPER[workload][field]:+.1f} %" for field in FIELDS), ""])
    return table(rows)


def _gain_chart(found: Sequence[Gain], workload: str) -> BarChart:
    bars = [Bars(label=gain.system, values=tuple(gain.change[field] for field in FIELDS)) for gain in found]
    if workload in PAPER:
        bars.append(Bars(label="the paper", values=tuple(PAPER[workload][field] for field in FIELDS)))
    groups = tuple(_NAMES[field] for field in FIELDS)
    return BarChart(title=workload, y="change over PD-Basic (%)", groups=groups, bars=tuple(bars))


def _unfinished(results: Sequence[ServeResult]) -> str:
    last = results[-1]
    return (
        f"An unfinished run: {len(results)} cells so far, seed {last.seed}, commit {last.commit or 'unknown'}, "
        f"{last.machine}, {last.started}."
    )


def _older(results: Sequence[ServeResult], commit: str) -> str:
    """Which cells a run took over from before: it does not play again what is done."""
    systems: dict[str, list[str]] = {}
    for result in results:
        if result.commit != commit:
            systems.setdefault(f"commit {result.commit or 'unknown'} ({result.started[:10]})", []).append(result.system)
    told = [f"{', '.join(dict.fromkeys(names))} at {where}" for where, names in systems.items()]
    return f"but for {'; '.join(told)}" if told else ""


def _spread(values: Sequence[float]) -> str:
    middle = f"{median(values):.3g}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.3g} to {max(values):.3g})"

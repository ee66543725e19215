"""The sections of `memserve bench simulated`: the paper's own scale, beside the paper's figures."""

from collections.abc import Sequence
from pathlib import Path

from memserve.bench.charts import BarChart, Bars
from memserve.bench.report.section import Block, Drawing, Section, read_json, table
from memserve.bench.simulated.record import Gains, PaperReport, PaperResult, StudyReport
from memserve.core.errors import ConfigError

_GAINS = {"ttft_avg": "TTFT average", "ttft_p99": "TTFT P99", "jct_avg": "JCT average", "jct_p99": "JCT P99"}
_DRAWN = "PD-Caching-3"
_READING = (
    "Load: average TTFT of PD-Basic over that of an idle cluster. Changes are over PD-Basic of the same seeds, in "
    "brackets what the paper reports of caching."
)
_HEAD = ("workload, load", "system", "TTFT avg, s", "TTFT P99, s", "JCT avg, s", "JCT P99, s", "hits")


def simulated_sections() -> list[Section]:
    """One for each study of the simulator that the page has a place for."""
    return [
        Section(
            name="simulation-paper",
            file="simulation-paper.json",
            command="memserve bench simulated paper --json benchmarks/results/simulation-paper.json",
            build=_paper,
        )
    ]


def _paper(file: Path) -> Block:
    report = read_json(file, PaperReport)
    if not report.results:
        raise ConfigError(f"{file} holds no results: make it again")
    rows = [[*_HEAD, *(f"{name}, change (the paper's)" for name in _GAINS.values())]]
    rows += [_row(result) for result in report.results]
    scaling = [f"- {workload}: {text}" for workload, text in report.scaling.items()]
    lines = [
        f"Profile: {report.profile_source}",
        _READING,
        "",
        *table(rows),
        "",
        "Lengths:",
        "",
        *scaling,
        *_origin(report),
    ]
    charts = tuple(_chart(report.results, workload) for workload in dict.fromkeys(r.workload for r in report.results))
    drawing = Drawing(name="simulation-paper", alt="Gains over PD-Basic, simulated, beside the paper's", charts=charts)
    return Block(lines=tuple(lines), drawings=(drawing,))


def _row(result: PaperResult) -> list[str]:
    return [
        f"{result.workload}, {result.load:g} times",
        result.system,
        f"{result.ttft_avg_s:.3f}",
        f"{result.ttft_p99_s:.3f}",
        f"{result.jct_avg_s:.2f}",
        f"{result.jct_p99_s:.2f}",
        f"{result.hit_ratio:.0%}",
        *(_change(result.gains, result.paper, field) for field in _GAINS),
    ]


def _change(ours: Gains, paper: Gains | None, field: str) -> str:
    told = "" if paper is None else f" ({getattr(paper, field):+.1%})"
    return f"{getattr(ours, field):+.1%}{told}"


def _chart(results: Sequence[PaperResult], workload: str) -> BarChart:
    own = [result for result in results if (result.workload, result.system) == (workload, _DRAWN)]
    bars = [_bars(f"{_DRAWN}, load {result.load:g} times", result.gains) for result in own]
    if own and own[0].paper is not None:
        bars.append(_bars("the paper", own[0].paper))
    return BarChart(title=workload, y="change over PD-Basic (%)", groups=tuple(_GAINS.values()), bars=tuple(bars))


def _bars(label: str, gains: Gains) -> Bars:
    return Bars(label=label, values=tuple(100 * float(getattr(gains, field)) for field in _GAINS))


def _origin(report: StudyReport) -> list[str]:
    made = report.origin
    seeds = f"seeds {report.seeds[0]} to {report.seeds[-1]}" if len(report.seeds) > 1 else f"seed {report.seeds[0]}"
    commit = made.commit or "unknown"
    return ["", f"*Made by `{made.command}`, {seeds}, commit {commit}, simulated on {made.machine}, {made.started}.*"]

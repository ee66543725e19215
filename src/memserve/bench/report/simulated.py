"""The sections of `memserve bench simulated`: the paper's own scale, beside the paper's figures."""

from collections.abc import Sequence
from pathlib import Path

from memserve.bench.charts import BarChart, Bars
from memserve.bench.report.section import Block, Drawing, Section, read_json, table
from memserve.bench.simulated.record import (
    AgainstReport,
    AgainstResult,
    CostReport,
    CostResult,
    Gains,
    MemoryReport,
    PaperReport,
    PaperResult,
    StudyReport,
)
from memserve.core.enums import CachingMode
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
        ),
        Section(
            name="simulation-cost",
            file="simulation-cost.json",
            command=(
                "memserve bench simulated cost ../shared/data/mooncake/conversation_trace.jsonl "
                "--json benchmarks/results/simulation-cost.json"
            ),
            build=_cost,
        ),
        Section(
            name="simulation-memory",
            file="simulation-memory.json",
            command=(
                "memserve bench simulated memory ../shared/data/mooncake/conversation_trace.jsonl "
                "--max-requests 4000 --json benchmarks/results/simulation-memory.json"
            ),
            build=_memory,
        ),
        Section(
            name="simulation-against",
            file="simulation-against.json",
            command=(
                "memserve bench simulated against benchmarks/results/serve-sharegpt.json "
                "benchmarks/results/serve-react.json --profile benchmarks/results/cost-profile.json "
                "--json benchmarks/results/simulation-against.json"
            ),
            build=_against,
        ),
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


def _against(file: Path) -> Block:
    report = read_json(file, AgainstReport)
    if not report.results:
        raise ConfigError(f"{file} holds no cell: the run had no system that the simulator knows; make it again")
    rows = [["system, workload, sessions/s", "n", "TTFT P50, s", "simulated", "off", "JCT P50, s", "simulated", "off"]]
    rows += [
        [
            _cell(result),
            str(result.requests),
            f"{result.ttft_p50_s:.2f}",
            f"{result.simulated_ttft_p50_s:.2f}",
            f"{result.ttft_error:+.0%}",
            f"{result.jct_p50_s:.2f}",
            f"{result.simulated_jct_p50_s:.2f}",
            f"{result.jct_error:+.0%}",
        ]
        for result in report.results
    ]
    lines = [f"Profile: {report.profile_source}", "", *table(rows)]
    lines += ["", f"Left out: {', '.join(report.left_out)}."] if report.left_out else []
    charts = tuple(_beside(report.results, quantity) for quantity in ("ttft", "jct"))
    drawing = Drawing(name="simulation-against", alt="Measured and simulated medians", charts=charts, columns=1)
    return Block(lines=(*lines, *_origin(report)), drawings=(drawing,))


def _beside(results: Sequence[AgainstResult], quantity: str) -> BarChart:
    fields = {"measured": f"{quantity}_p50_s", "simulated": f"simulated_{quantity}_p50_s"}
    bars = (Bars(label=label, values=tuple(getattr(r, field) for r in results)) for label, field in fields.items())
    name = f"{quantity.upper()} P50"
    groups = tuple(f"{r.system}\n{r.workload}\n{r.rate:g}/s, {r.repetition}" for r in results)
    return BarChart(title=name, y=f"{name} (s)", groups=groups, bars=tuple(bars))


def _cell(result: AgainstResult) -> str:
    return f"{result.system}, {result.workload}, {result.rate:g}, repetition {result.repetition}"


def _cost(file: Path) -> Block:
    report = read_json(file, CostReport)
    if not report.results:
        raise ConfigError(f"{file} holds no results: no cluster was large enough; make it again with a larger --most")
    rows = [["caching, routing", "instances", "TTFT avg, s", "JCT avg, s", "busy", "hits", "$ per million tokens"]]
    rows += [
        [
            _kind(result),
            str(result.instances),
            f"{result.ttft_avg_s:.2f}",
            f"{result.jct_avg_s:.2f}",
            f"{result.utilisation:.0%}",
            f"{result.hit_ratio:.0%}",
            f"{result.dollars_per_million_tokens:.3f}",
        ]
        for result in report.results
    ]
    asked = (
        f"Trace: {report.trace}, {report.requests} requests. The fewest instances whose average TTFT stays below "
        f"{report.ttft_s:g} s, at ${report.price_per_gpu_hour:g} for an hour of a GPU."
    )
    lines = [asked, "", f"Profile: {report.profile_source}", "", *table(rows)]
    bars = (Bars(label="cost", values=tuple(result.dollars_per_million_tokens for result in report.results)),)
    groups = tuple(_kind(result).replace(", ", "\n") for result in report.results)
    chart = BarChart(title="cost of serving", y="dollars per million tokens ($)", groups=groups, bars=bars)
    drawing = Drawing(name="simulation-cost", alt="Cost of a million tokens, simulated", charts=(chart,))
    return Block(lines=(*lines, *_origin(report)), drawings=(drawing,))


def _memory(file: Path) -> Block:
    report = read_json(file, MemoryReport)
    if not report.results:
        raise ConfigError(f"{file} holds no results: make it again")
    rows = [["cluster", "requests", "hits (ideal)", "TTFT avg, s", "TTFT P99, s", "JCT avg, s", "pulled", "moved, TB"]]
    rows += [
        [
            f"{result.cluster}, {result.instances} instances",
            f"{result.requests} of {result.trace}",
            f"{result.hit_ratio:.1%} ({result.ideal_hit_ratio:.1%})",
            f"{result.ttft_avg_s:.3f}",
            f"{result.ttft_p99_s:.2f}",
            f"{result.jct_avg_s:.2f}",
            f"{result.pull_ratio:.0%}",
            f"{result.moved_bytes / 1e12:.1f}",
        ]
        for result in report.results
    ]
    first = report.results[0]
    pool, memory = first.pool_blocks or 0, max(result.memory_blocks for result in report.results)
    asked = f"Small pools: {pool} blocks of 512 tokens each; the large memory instance: {memory} blocks."
    lines = [asked, "", f"Profile: {report.profile_source}", "", *table(rows)]
    drawn = [r for r in report.results if (r.trace, r.max_replicas) == (first.trace, first.max_replicas)]
    bars = (Bars(label="hits", values=tuple(100 * result.hit_ratio for result in drawn)),)
    groups = tuple(result.cluster.replace(" ", "\n") for result in drawn)
    chart = BarChart(title="what more memory buys", y="blocks found (%)", groups=groups, bars=bars)
    drawing = Drawing(name="simulation-memory", alt="Hit ratio by where memory is put", charts=(chart,), columns=1)
    return Block(lines=(*lines, *_origin(report)), drawings=(drawing,))


def _kind(result: CostResult) -> str:
    caching = "no caching" if result.caching is CachingMode.BASIC else "caching"
    return f"{caching}, {result.policy}"


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

"""Studies as tables of a terminal: what the reader compares stands side by side."""

from rich.box import SIMPLE_HEAD
from rich.table import Table

from memserve.bench.simulated.record import AgainstReport, CostReport, Gains, MemoryReport, PaperReport
from memserve.core.enums import CachingMode


def paper_table(report: PaperReport) -> Table:
    """A row per workload, load and system; gains against PD-Basic, the paper's in brackets."""
    table = _table("workload", "load", "system", right=("TTFT ms", "p99", "JCT s", "p99", "hits"))
    for heading in ("TTFT", "p99", "JCT", "p99"):
        table.add_column(f"{heading} gain", justify="right", no_wrap=True)
    for row in report.results:
        table.add_row(
            row.workload,
            f"{row.load:.1f}x",
            row.system,
            f"{row.ttft_avg_s * 1e3:.1f}",
            f"{row.ttft_p99_s * 1e3:.0f}",
            f"{row.jct_avg_s:.2f}",
            f"{row.jct_p99_s:.2f}",
            f"{row.hit_ratio:.2f}",
            *_gains(row.gains, row.paper),
        )
    return table


def against_table(report: AgainstReport) -> Table:
    """A row per cell: medians, measured and simulated, and how far the simulator is off."""
    table = _table(
        "workload", "system", right=("rate", "rep.", "n", "TTFT s", "simulated", "off", "JCT s", "simulated", "off")
    )
    for row in report.results:
        table.add_row(
            row.workload,
            row.system,
            f"{row.rate:g}",
            str(row.repetition),
            str(row.requests),
            f"{row.ttft_p50_s:.2f}",
            f"{row.simulated_ttft_p50_s:.2f}",
            f"{row.ttft_error:+.0%}",
            f"{row.jct_p50_s:.2f}",
            f"{row.simulated_jct_p50_s:.2f}",
            f"{row.jct_error:+.0%}",
        )
    return table


def cost_table(report: CostReport) -> Table:
    """A row per kind of cluster."""
    table = _table(
        "caching", "policy", right=("instances", "TTFT s", "p99", "JCT s", "busy", "hits", "$ per million tokens")
    )
    for row in report.results:
        table.add_row(
            "none" if row.caching is CachingMode.BASIC else str(row.caching),
            row.policy,
            str(row.instances),
            f"{row.ttft_avg_s:.2f}",
            f"{row.ttft_p99_s:.2f}",
            f"{row.jct_avg_s:.2f}",
            f"{row.utilisation:.0%}",
            f"{row.hit_ratio:.3f}",
            f"{row.dollars_per_million_tokens:.3f}",
        )
    return table


def memory_table(report: MemoryReport) -> Table:
    """A row per cluster; TB are those moved between instances."""
    table = _table("cluster", right=("hits", "TTFT s", "p99", "JCT s", "pull", "TB", "max/mean"))
    for row in report.results:
        table.add_row(
            row.cluster,
            f"{row.hit_ratio:.3f}",
            f"{row.ttft_avg_s:.3f}",
            f"{row.ttft_p99_s:.2f}",
            f"{row.jct_avg_s:.2f}",
            f"{row.pull_ratio:.0%}",
            f"{row.moved_bytes / 1e12:.1f}",
            f"{row.load_max_over_mean:.2f}",
        )
    return table


def _gains(ours: Gains, paper: Gains | None) -> list[str]:
    fields = ("ttft_avg", "ttft_p99", "jct_avg", "jct_p99")
    told = {field: "" if paper is None else f" ({getattr(paper, field):+.0%})" for field in fields}
    return [f"{getattr(ours, field):+.0%}{told[field]}" for field in fields]


def _table(*left: str, right: tuple[str, ...]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False)
    for heading in left:
        table.add_column(heading, no_wrap=True)
    for heading in right:
        table.add_column(heading, justify="right", no_wrap=True)
    return table

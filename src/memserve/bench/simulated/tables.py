"""Studies as tables of a terminal: what the reader compares stands side by side."""

from rich.box import SIMPLE_HEAD
from rich.table import Table

from memserve.bench.simulated.record import Gains, PaperReport


def paper_table(report: PaperReport) -> Table:
    """A row per workload, load and system; gains against PD-Basic, the paper's in brackets."""
    table = _table("workload", "load", "system", right=("TTFT ms", "p99", "JCT s", "p99", "hits"))
    for heading in ("TTFT", "p99", "JCT", "p99"):
        table.add_column(f"{heading} gain", justify="right", no_wrap=True)
    for row in report.results:
        table.add_row(
            row.workload,
            f"{row.load:g}x",
            row.system,
            f"{row.ttft_avg_s * 1e3:.1f}",
            f"{row.ttft_p99_s * 1e3:.0f}",
            f"{row.jct_avg_s:.2f}",
            f"{row.jct_p99_s:.2f}",
            f"{row.hit_ratio:.2f}",
            *_gains(row.gains, row.paper),
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

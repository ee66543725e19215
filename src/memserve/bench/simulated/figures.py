"""Studies as pictures. Owns how they look: opaque white, as the simulator's own, so that they read anywhere."""

from pathlib import Path
from typing import TYPE_CHECKING

from memserve.bench.simulated.record import Gains, PaperReport, PaperResult
from memserve.simulator.figure import new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GAINS = {"TTFT avg": "ttft_avg", "TTFT p99": "ttft_p99", "JCT avg": "jct_avg", "JCT p99": "jct_p99"}
_PAPER, _OURS = "#b08a3e", ("#9fcbb2", "#2f8f5b", "#1c5c39")


def draw_paper(report: PaperReport, file: Path) -> None:
    """A panel per workload: the paper's gains, PD-Caching-3's at each load. Raises ConfigError as draw_simulation."""
    rows = [row for row in report.results if row.system == "PD-Caching-3"]
    workloads = list(dict.fromkeys(row.workload for row in rows))
    figure = new_figure(width=4.2 * len(workloads), height=3.6)
    panels = figure.subplots(1, len(workloads), squeeze=False, sharey=True)[0]
    for axes, workload in zip(panels, workloads, strict=True):
        _bars(axes, [row for row in rows if row.workload == workload])
        axes.set_title(workload)
        axes.legend(fontsize=7)
    panels[0].set_ylabel("against PD-Basic (%)")
    figure.suptitle(f"Gains of caching, 4 instances: {report.profile.model} on {report.profile.machine}, simulated")
    save(figure, file)


def _bars(axes: "Axes", rows: list[PaperResult]) -> None:
    series: list[tuple[str, Gains, str]] = []
    if rows[0].paper is not None:
        series.append(("paper", rows[0].paper, _PAPER))
    for row, color in zip(rows, _OURS * len(rows), strict=False):
        series.append((f"simulated, load {row.load:.1f}x", row.gains, color))
    width = 0.8 / len(series)
    for number, (label, gains, color) in enumerate(series):
        places = [place + number * width - 0.4 + width / 2 for place in range(len(_GAINS))]
        axes.bar(places, [100 * getattr(gains, field) for field in _GAINS.values()], width, label=label, color=color)
    axes.set_xticks(range(len(_GAINS)), list(_GAINS), fontsize=8)
    axes.grid(axis="y", alpha=0.3)

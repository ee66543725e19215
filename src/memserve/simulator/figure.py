"""Figures of simulated runs: TTFT, hit ratio and balance over the number of instances, hit ratio over capacity.

Owns how they look: opaque white, so that they read alike in print and on a dark page. Needs matplotlib, which
comes with the extra `bench`.
"""

from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memserve.core.errors import ConfigError
from memserve.simulator.report import CacheReport, SimulationReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANELS = (
    ("ttft_avg_s", "average TTFT / the best at this size"),
    ("jct_avg_s", "average JCT / the best at this size"),
    ("hit_ratio", "hit ratio (of blocks)"),
    ("load_max_over_mean", "load, max / mean"),
)
_RELATIVE = {"ttft_avg_s", "jct_avg_s"}
"""Drawn against the best policy at the same number of instances: seconds differ a thousandfold between sizes."""
_MARKERS = "osD^vPX*"


def draw_simulation(report: SimulationReport, file: Path) -> None:
    """Four panels, a line per policy. Raises ConfigError without matplotlib or when the file cannot be written."""
    figure = new_figure(width=11, height=6.5)
    panels: Sequence[Axes] = figure.subplots(2, 2).flat
    policies = list(dict.fromkeys(result.policy for result in report.results))
    for axes, (field, label) in zip(panels, _PANELS, strict=True):
        units = _best(report, field) if field in _RELATIVE else {}
        for policy, marker in zip(policies, _MARKERS * len(policies), strict=False):
            results = [result for result in report.results if result.policy == policy]
            values = [getattr(r, field) / units.get(r.instances, 1.0) for r in results]
            axes.plot([r.instances for r in results], values, marker=marker, label=policy)
        _over_instances(axes, sorted({result.instances for result in report.results}), label)
    panels[2].axhline(report.results[0].ideal_hit_ratio, color="black", linestyle=":", label="endless shared cache")
    panels[2].legend(fontsize=8)
    figure.suptitle(f"{report.trace}: {report.requests} requests, {report.profile.model} on {report.profile.machine}")
    save(figure, file)


def draw_cache(report: CacheReport, file: Path) -> None:
    """One panel, a line per policy. Raises ConfigError as `draw_simulation`."""
    figure = new_figure(width=7, height=4.5)
    axes = figure.subplots()
    policies = list(dict.fromkeys(result.policy for result in report.results))
    for policy, marker in zip(policies, _MARKERS * len(policies), strict=False):
        results = [result for result in report.results if result.policy == policy]
        axes.plot([r.capacity_blocks for r in results], [r.hit_ratio for r in results], marker=marker, label=policy)
    axes.axhline(report.results[0].ideal_hit_ratio, color="black", linestyle=":", label="without a bound")
    axes.set_xscale("log")
    axes.set_xlabel("capacity (blocks of 512 tokens)")
    axes.set_ylabel("hit ratio (of blocks)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    axes.set_title(f"{report.trace}: {report.requests} requests, one pool")
    save(figure, file)


def _best(report: SimulationReport, field: str) -> dict[int, float]:
    """Lowest value at each number of instances."""
    best: dict[int, float] = {}
    for result in report.results:
        best[result.instances] = min(best.get(result.instances, inf), getattr(result, field))
    return best


def new_figure(*, width: float, height: float) -> "Figure":
    """Inches. Raises ConfigError without matplotlib."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an extra, and slow to import
    except ImportError as error:
        raise ConfigError("a figure needs matplotlib: pip install 'memserve[bench]'") from error
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def _over_instances(axes: "Axes", sizes: Sequence[int], label: str) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_xlabel("instances")
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def save(figure: "Figure", file: Path) -> None:
    """As its name's ending says. Raises ConfigError when the file cannot be written."""
    options: dict[str, Any] = {"dpi": 150, "facecolor": "white"}
    try:
        figure.savefig(file, **options)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot write the figure {file}: {error}; name a .png, .svg or .pdf file") from error

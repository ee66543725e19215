"""Pictures of results: lines over a quantity or groups of bars, several panels in one file.

Transparent ground, mid-tone ink and marks that differ in shape, so that the same file reads on paper, on a light and
on a dark page. Every axis has a name and a unit. Needs matplotlib (extra `bench`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from memserve.core.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as FigureType

_INK = "#7c848c"
_COLORS = ("#2f8f5b", "#6f8fc9", "#b5803a", "#a86fb0", "#c0605a", "#5f9ea0", "#8a8a3d", "#777777")
_MARKERS = "osD^vPX*"
_HATCHES = ("", "//", "..", "xx", "\\\\", "++", "oo", "--")
_MANY = 5
"""With more series than this, one legend stands under all panels."""
_WIDE_BARS = 15
"""With more bars than this in one panel, it is twice as wide."""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    """Lower and upper end of the spread at each x; () for none."""
    high: tuple[float, ...] = ()


class LineChart(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    title: str
    x: str
    """With its unit."""
    y: str
    lines: tuple[Line, ...]
    log_x: bool = False
    log_y: bool = False


class Bars(msgspec.Struct, frozen=True, kw_only=True):
    label: str
    values: tuple[float | None, ...]
    """One for each group; None where there is none."""


class BarChart(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    title: str
    y: str
    """With its unit."""
    groups: tuple[str, ...]
    bars: tuple[Bars, ...]


Chart = LineChart | BarChart


def draw_charts(charts: Sequence[Chart], path: Path, *, columns: int = 3) -> None:
    """Write SVG, PNG or PDF by the file's ending. ConfigError without matplotlib, for nothing, or for no file."""
    try:
        from matplotlib import rc_context  # noqa: PLC0415 - an extra, and slow to import
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError('a figure needs matplotlib: pip install "memserve[bench]"') from error
    if not charts:
        raise ConfigError(f"there is nothing to draw into {path}")
    columns = min(columns, len(charts))
    rows = -(-len(charts) // columns)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": path.name, "font.size": 9}):
        figure = Figure(figsize=(_width(charts) * columns, 3.1 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis, chart in zip(axes, charts, strict=False):
            _lines(axis, chart) if isinstance(chart, LineChart) else _bars(axis, chart)
            _style(axis, chart)
        _legend(figure, list(axes[: len(charts)]))
        for axis in axes[len(charts) :]:
            axis.set_visible(False)
        options: dict[str, Any] = {"metadata": {"Date": None}} if path.suffix == ".svg" else {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, transparent=True, **options)
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot write the figure {path}: {error}; name a .svg, .png or .pdf file") from error


def _lines(axis: "Axes", chart: LineChart) -> None:
    for number, line in enumerate(chart.lines):
        color = _COLORS[number % len(_COLORS)]
        marker = _MARKERS[(number + number // len(_COLORS)) % len(_MARKERS)]
        style = "-" if number < len(_COLORS) else "--"
        axis.plot(line.x, line.y, style, color=color, marker=marker, markersize=5, linewidth=1.4, label=line.label)
        if line.low:
            axis.fill_between(line.x, line.low, line.high, color=color, alpha=0.18, linewidth=0)
    if chart.log_x:
        axis.set_xscale("log", base=2)
    places = sorted({x for line in chart.lines for x in line.x})
    if len(places) <= 8:
        axis.set_xticks(places, [f"{place:g}" for place in places])
        axis.minorticks_off()
    if chart.log_y:
        axis.set_yscale("log")
    else:
        axis.set_ylim(0, 1.15 * max((max(line.high or line.y) for line in chart.lines), default=1.0) or 1.0)
    axis.set_xlabel(chart.x)


def _bars(axis: "Axes", chart: BarChart) -> None:
    width = 0.8 / max(1, len(chart.bars))
    for number, bars in enumerate(chart.bars):
        places = [group + (number - (len(chart.bars) - 1) / 2) * width for group in range(len(chart.groups))]
        shown = [(place, value) for place, value in zip(places, bars.values, strict=True) if value is not None]
        drawn = axis.bar(
            [place for place, _ in shown],
            [value for _, value in shown],
            width,
            color=_COLORS[number % len(_COLORS)],
            hatch=_HATCHES[(number + number // len(_COLORS)) % len(_HATCHES)],
            edgecolor=_INK,
            linewidth=0.5,
            label=bars.label,
        )
        if len(chart.bars) * len(chart.groups) <= 12:
            axis.bar_label(drawn, fmt="%.3g", padding=2, color=_INK, fontsize=7)
    axis.axhline(0, color=_INK, linewidth=0.8)
    axis.set_xticks(range(len(chart.groups)), chart.groups)


def _style(axis: "Axes", chart: Chart) -> None:
    axis.set_title(chart.title, color=_INK, fontsize=9)
    axis.set_ylabel(chart.y)
    axis.xaxis.label.set_color(_INK)
    axis.yaxis.label.set_color(_INK)
    axis.tick_params(colors=_INK, labelsize=8)
    axis.grid(visible=True, color=_INK, alpha=0.25, linewidth=0.5)
    axis.set_axisbelow(True)
    for name, spine in axis.spines.items():
        spine.set_visible(name in {"left", "bottom"})
        spine.set_color(_INK)


def _legend(figure: "FigureType", axes: "Sequence[Axes]") -> None:
    """In each panel where its few labels find room, else one for all."""
    labels: dict[str, Artist] = {}
    for axis in axes:
        handles, names = axis.get_legend_handles_labels()
        labels |= {name: handle for handle, name in zip(handles, names, strict=True) if name not in labels}
    style: dict[str, Any] = {"fontsize": 7, "labelcolor": _INK, "frameon": False}
    if len(labels) > _MANY or any(axis.patches for axis in axes):
        figure.legend(labels.values(), labels.keys(), loc="outside lower center", ncols=min(6, len(labels)), **style)
        return
    for axis in axes:
        if axis.get_legend_handles_labels()[1]:
            axis.legend(**style)


def _width(charts: Sequence[Chart]) -> float:
    """Inches of a panel."""
    most = max((len(c.bars) * len(c.groups) for c in charts if isinstance(c, BarChart)), default=0)
    return 8.8 if most > _WIDE_BARS and len(charts) == 1 else 4.4

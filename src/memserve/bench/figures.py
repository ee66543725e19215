"""A report as a picture: one panel a task, one bar a system, shorter is better.

Transparent ground and mid-tone ink, so that the same file reads on a light and on a dark page.
Needs matplotlib (extra `bench`).
"""

from collections.abc import Sequence
from pathlib import Path

from memserve.bench.records import Report, Row
from memserve.core.errors import ConfigError

_INK = "#808890"
_OURS, _PEER, _LIMIT = "#2f8f5b", "#6f8fc9", "#b08a3e"
_SHOWN = frozenset(
    {
        *("match", "insert", "choose", "decide", "stored", "evicted", "alloc_free", "put", "get"),
        *("transfer", "copy", "swap_out", "swap_in"),
    }
)


def draw(report: Report, path: Path) -> None:
    """Write SVG, PNG or PDF by the file's ending. Raises ConfigError without matplotlib or results."""
    try:
        from matplotlib import rc_context  # noqa: PLC0415
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError("a figure needs matplotlib: pip install memserve[bench]") from error
    panels = _panels(report.results)
    if not panels:
        raise ConfigError("there is nothing to draw: no system could be measured")
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(4.6 * columns, 2.4 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis, (title, rows) in zip(axes, panels.items(), strict=False):
        labels = [f"{row.system} {row.input}".strip() for row in rows]
        bars = axis.barh(labels, [row.p50_us for row in rows], color=[_color(row) for row in rows])
        axis.bar_label(bars, labels=[f" {_figure(row.p50_us)}" for row in rows], color=_INK, fontsize=8)
        axis.set_title(f"{title}, median us", color=_INK, fontsize=9)
        axis.set_xlim(0, 1.25 * max(row.p50_us for row in rows))
        axis.invert_yaxis()
        axis.tick_params(colors=_INK, labelsize=8)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            axis.spines[side].set_color(_INK)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    with rc_context({"svg.fonttype": "none"}):
        figure.savefig(path, transparent=True)


def _panels(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows that can be compared with each other, under the title of their panel."""
    matched = {(row.tree, row.blocks) for row in rows if row.operation == "match"}
    panels: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row.operation, row.tree, row.path, row.blocks, row.system != "memserve")):
        if row.operation in _SHOWN and row.p50_us and (not row.tree or (row.tree, row.blocks) in matched):
            panels.setdefault(_title(row), []).append(row)
    return panels


def _title(row: Row) -> str:
    if row.tree:
        return f"{row.operation}, {row.tree}, {row.blocks} blocks"
    size = f" of {row.size_bytes >> 10} KiB" if row.size_bytes else ""
    return f"{row.operation} {row.path}, {row.blocks} blocks{size}"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _color(row: Row) -> str:
    if row.system == "memserve":
        return _OURS
    return _LIMIT if row.system in {"memcpy", "socket", "iperf3", "limit"} else _PEER

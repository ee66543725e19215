"""The fit beside the measurement, as a figure: what was measured against what the profile predicts there.

Owns how it looks: opaque white, so that it reads alike in print and on a dark page. Needs matplotlib, which comes
with the extra `bench`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memserve.calibration.measurements import Calibration, Fit
from memserve.core.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_calibration(calibration: Calibration, file: Path) -> None:
    """Three panels. Raises ConfigError without matplotlib or when the file cannot be written."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an extra, and slow to import
    except ImportError as error:
        raise ConfigError("a figure needs matplotlib: pip install 'memserve[bench]'") from error
    figure = Figure(figsize=(12, 4.2), layout="constrained", facecolor="white")
    panels: Sequence[Axes] = figure.subplots(1, 3)
    _panel(panels[0], (calibration.prefill,), "prefill")
    _panel(panels[1], (calibration.decode,), "decode step")
    _panel(panels[2], calibration.paths, "transfer")
    identity = calibration.profile.identity
    figure.suptitle(f"{identity.engine} on {identity.machine}", fontsize=10)
    options: dict[str, Any] = {"dpi": 150, "facecolor": "white"}
    try:
        figure.savefig(file, **options)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot write the figure {file}: {error}; name a .png, .svg or .pdf file") from error


def _panel(axes: "Axes", fits: Sequence[Fit[Any]], title: str) -> None:
    """Measured over predicted on equal axes: a perfect fit lies on the diagonal. Milliseconds from 0 on."""
    high = 0.0
    for index, fit in enumerate(fits):
        for judges, marker, what in ((False, "o", "used for the fit"), (True, "x", "not used")):
            points = [(p.predicted_s * 1e3, p.sample.seconds * 1e3) for p in fit.points if p.judges == judges]
            if not points:
                continue
            name = what if len(fits) == 1 else f"{fit.kind}, {what}"
            axes.plot(*zip(*points, strict=True), marker, color=f"C{index}", label=name, markersize=6)
            high = max(high, *(max(point) for point in points))
    top = 1.08 * high or 1.0
    axes.plot([0, top], [0, top], color="black", linewidth=0.8)
    axes.set_xlim(0, top)
    axes.set_ylim(0, top)
    axes.set_xlabel("predicted (ms)")
    axes.set_ylabel("measured (ms)")
    errors = [f"{f.kind} {f.error.median:.0%}/{f.error.p90:.0%}" for f in fits if f.error is not None]
    axes.set_title(f"{title}, median/P90 error:\n{', '.join(errors) or 'not judged'}", fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)

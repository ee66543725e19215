"""Figure of an autoscaled run: requests that come and instances that are paid for, over the day. Needs matplotlib."""

from pathlib import Path

from memserve.simulator.figure import new_figure, save
from memserve.simulator.fleet import FleetReport


def draw_fleet(report: FleetReport, file: Path) -> None:
    """Raises ConfigError without matplotlib or when the file cannot be written."""
    figure = new_figure(width=9, height=5.5)
    above, below = figure.subplots(2, 1, sharex=True)
    above.plot([at / 3600 for at, _ in report.rates], [rate for _, rate in report.rates], color="tab:gray")
    above.set_ylabel("requests a second")
    own = report.autoscaled
    hours = [at / 3600 for at, _ in own.sizes]
    below.step([*hours, report.hours], [*(n for _, n in own.sizes), own.sizes[-1][1]], where="post", label="autoscaled")
    if report.best_fixed is not None:
        below.axhline(
            report.best_fixed.most, color="black", linestyle=":", label="smallest fixed size that keeps as much"
        )
    below.set_ylabel("instances")
    below.set_xlabel("hour")
    below.set_ylim(bottom=0)
    below.legend(fontsize=8)
    for axes in (above, below):
        axes.grid(alpha=0.3)
    figure.suptitle(f"{report.trace}: {report.requests} requests, {report.profile.model} on {report.profile.machine}")
    save(figure, file)

"""`memserve simulate --autoscale`: a cluster that follows its load beside clusters of fixed size. Decides nothing."""

from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from memserve.cli.bounds import parse_bounds
from memserve.cluster.autoscaler import AutoscaleRules, Bounds
from memserve.cluster.service_levels import Targets
from memserve.simulator.fleet import FleetReport, FleetResult, compare
from memserve.simulator.fleet_figure import draw_fleet
from memserve.simulator.report import write_json
from memserve.simulator.setting import Setting
from memserve.simulator.trace import Trace


def rules_of(bounds: str, targets: Targets) -> AutoscaleRules:
    """With bounds as typed. Raises ConfigError on what cannot be read."""
    parsed = parse_bounds(bounds, "--autoscale")
    return AutoscaleRules(
        targets=targets, bounds={role: Bounds(least=least, most=most) for role, (least, most) in parsed.items()}
    )


def run_autoscale(
    trace: Trace,
    base: Setting,
    rules: AutoscaleRules,
    *,
    sizes: Sequence[int],
    json: Path | None,
    figure: Path | None,
) -> None:
    """Play, print, write. Raises ConfigError for what cannot be."""
    console = Console(highlight=False)
    with console.status("simulating") as status:
        report = compare(
            trace, base, rules, sizes=sizes, each=lambda done: status.update(f"simulated {done.name} instances")
        )
    targets = rules.targets
    console.print(
        f"{report.trace}: {report.requests} requests over {report.hours:.1f} h, {report.profile.model} on "
        f"{report.profile.machine}; targets: {targets.ttft_s:g} s to the first token, "
        f"{targets.tpot_s * 1000:g} ms a token",
        soft_wrap=True,
    )
    console.print(fleet_table(report, share=targets.share))
    console.print(verdict(report), soft_wrap=True)
    if json is not None:
        write_json(report, json)
    if figure is not None:
        draw_fleet(report, figure)


def fleet_table(report: FleetReport, *, share: float) -> Table:
    """A row for each size, and one for the autoscaled cluster."""
    table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column("instances", no_wrap=True)
    quantile = f"p{share * 100:g}"
    for heading in ("inst.-hours", "in target", f"TTFT {quantile} s", f"TPOT {quantile} ms", "at once", "changes"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in (*report.fixed, report.autoscaled):
        table.add_row(*_cells(row))
    return table


def verdict(report: FleetReport) -> str:
    """The comparison in a sentence."""
    own = report.autoscaled
    turns = f"{own.num_reversals} of its {own.num_changes} changes took one back within the cool-down"
    best = report.best_fixed
    if best is None:
        return f"no fixed size kept the targets as often as the autoscaled cluster ({own.attained:.2%}); {turns}"
    saved = 1 - own.instance_hours / best.instance_hours
    return (
        f"the smallest fixed size that keeps the targets as often is {best.name}: {best.instance_hours:.1f} "
        f"instance-hours against {own.instance_hours:.1f} autoscaled ({saved:.0%} less); {turns}"
    )


def _cells(row: FleetResult) -> tuple[str, ...]:
    return (
        row.name,
        f"{row.instance_hours:.1f}",
        f"{row.attained:.2%}",
        f"{row.ttft_s:.2f}",
        f"{row.tpot_s * 1000:.0f}",
        str(row.most) if row.fewest == row.most else f"{row.fewest} to {row.most}",
        str(row.num_changes),
    )

"""`memserve simulate` and `memserve simulate-cache`: what is typed, read and printed. Decides nothing."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from memserve.bench.simulated.origin import origin
from memserve.cli.autoscale import rules_of, run_autoscale
from memserve.cluster.service_levels import Targets
from memserve.core.errors import ConfigError
from memserve.simulator.answers import with_answers
from memserve.simulator.day import day, day_named
from memserve.simulator.figure import draw_cache, draw_simulation
from memserve.simulator.profiles import load_profile
from memserve.simulator.report import CacheReport, SimulationReport, cache_report, simulate, write_json
from memserve.simulator.result import SimulationResult
from memserve.simulator.setting import Setting
from memserve.simulator.trace import Trace, load_trace
from memserve.simulator.workloads import made_up, workload_names


class SimulateOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`memserve simulate` as typed."""

    trace: Path
    """A file, or the name of a made-up workload."""
    instances: str
    layout: str
    answers: bool
    policy: str
    profile: str
    pool_blocks: int | None
    eviction: str
    ttl_s: float
    confirm_s: float
    speed: float
    rate_for: int | None
    seed: int
    max_requests: int | None
    json: Path | None
    figure: Path | None
    autoscale: str | None
    """Bounds; None: every cluster stays as it is."""
    ttft_target_s: float
    tpot_target_s: float
    target_share: float


class SimulateCacheOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`memserve simulate-cache` as typed."""

    trace: Path
    capacities: str
    policies: str
    max_requests: int | None
    json: Path | None
    figure: Path | None


def run_simulate(options: SimulateOptions) -> None:
    """Play, print, write. Raises ConfigError for what cannot be."""
    sizes, policies = _numbers(options.instances, "--instances"), _names(options.policy, "--policy")
    trace = _trace(options)
    base = Setting(
        policy=policies[0],
        instances=sizes[0],
        profile=load_profile(options.profile),
        pool_blocks=options.pool_blocks,
        eviction=options.eviction,
        ttl_s=options.ttl_s,
        confirm_s=options.confirm_s,
        speed=options.speed,
        seed=options.seed,
    )
    if options.autoscale is not None:
        fixed = msgspec.structs.replace(base, layout=_names(options.layout, "--layout")[0])
        wanted = Targets(ttft_s=options.ttft_target_s, tpot_s=options.tpot_target_s, share=options.target_share)
        rules = rules_of(options.autoscale, wanted)
        run_autoscale(trace, fixed, rules, sizes=sizes, json=options.json, figure=options.figure)
        return
    console = Console(highlight=False)
    with console.status("simulating") as status:
        report = simulate(
            trace,
            base,
            policies=policies,
            sizes=sizes,
            origin=origin(),
            layouts=_names(options.layout, "--layout"),
            rate_for=options.rate_for,
            each=lambda done: status.update(f"simulated {done.policy} over {done.instances} {done.layout} instances"),
        )
    console.print(f"{report.trace}: {report.requests} requests, {report.profile.model} on {report.profile.machine}")
    console.print(f"an endless shared cache would hit {report.results[0].ideal_hit_ratio:.3f} of blocks")
    console.print(simulation_table(report))
    if options.json is not None:
        write_json(report, options.json)
    if options.figure is not None:
        draw_simulation(report, options.figure)


def run_simulate_cache(options: SimulateCacheOptions) -> None:
    """Replay, print, write. Raises ConfigError for what cannot be."""
    capacities = _numbers(options.capacities, "--capacities")
    policies = _names(options.policies, "--policies")
    trace = load_trace(options.trace, max_requests=options.max_requests)
    report = cache_report(trace, policies=policies, capacities=capacities)
    console = Console(highlight=False)
    console.print(f"{report.trace}: {report.requests} requests through one pool; hit ratio of blocks")
    console.print(cache_table(report))
    if options.json is not None:
        write_json(report, options.json)
    if options.figure is not None:
        draw_cache(report, options.figure)


def simulation_table(report: SimulationReport) -> Table:
    """A row per run. What is the same in all runs, or never happened, has no column: 80 characters have to do."""
    named = [field for field in ("policy", "layout") if len({getattr(row, field) for row in report.results}) > 1]
    has_splits = any(row.split_ratio for row in report.results)
    table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False)
    for field in named or ("policy",):
        table.add_column(field, no_wrap=True)
    shares = ("split", "pull") if has_splits else ("pull",)
    for heading in ("inst.", "hits", "TTFT s", "p99", "JCT s", "p99", "busy", "max/mean", *shares, "decide"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in report.results:
        table.add_row(*[getattr(row, field) for field in named or ("policy",)], *_figures(row, has_splits=has_splits))
    return table


def _figures(row: SimulationResult, *, has_splits: bool) -> Sequence[str]:
    return (
        str(row.instances),
        f"{row.hit_ratio:.3f}",
        f"{row.ttft_avg_s:.3f}",
        f"{row.ttft_p99_s:.2f}",
        f"{row.jct_avg_s:.2f}",
        f"{row.jct_p99_s:.2f}",
        f"{row.utilisation:.0%}",
        f"{row.load_max_over_mean:.2f}",
        *([f"{row.split_ratio:.0%}"] if has_splits else []),
        f"{row.pull_ratio:.0%}",
        f"{row.decide_p50_us:.0f} µs",
    )


def cache_table(report: CacheReport) -> Table:
    """One row per capacity, one column per policy."""
    table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column("blocks", justify="right", no_wrap=True)
    policies = list(dict.fromkeys(result.policy for result in report.results))
    for policy in (*policies, "unbounded"):
        table.add_column(policy, justify="right", no_wrap=True)
    for capacity in dict.fromkeys(result.capacity_blocks for result in report.results):
        row = [result for result in report.results if result.capacity_blocks == capacity]
        table.add_row(str(capacity), *[f"{r.hit_ratio:.4f}" for r in row], f"{row[0].ideal_hit_ratio:.4f}")
    return table


def _trace(options: SimulateOptions) -> Trace:
    shape = None if options.trace.exists() else day_named(str(options.trace), seed=options.seed)
    if shape is not None:
        return day(shape)
    if str(options.trace) in workload_names() and not options.trace.exists():
        return made_up(str(options.trace), seed=options.seed)
    trace = load_trace(options.trace, max_requests=options.max_requests)
    return with_answers(trace) if options.answers else trace


def _names(text: str, option: str) -> Sequence[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names or len(set(names)) != len(names):
        raise ConfigError(f'{option} "{text}": name at least one, each once, with commas between them')
    return names


def _numbers(text: str, option: str) -> Sequence[int]:
    try:
        numbers = [int(name) for name in _names(text, option)]
    except ValueError as error:
        raise ConfigError(f'{option} "{text}" is no list of whole numbers such as 4,16,64') from error
    if min(numbers) < 1:
        raise ConfigError(f'{option} "{text}": each must be at least 1')
    return numbers

"""All runs of one `memserve simulate`: what was asked, what came out, as JSON. Owns the form of that file."""

from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import msgspec

from memserve.core.errors import ConfigError
from memserve.scheduler.cost_model import ProfileIdentity
from memserve.simulator.replay import CacheResult, replay
from memserve.simulator.result import SimulationResult
from memserve.simulator.run import Simulation
from memserve.simulator.setting import Setting, check_setting
from memserve.simulator.trace import Trace


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Where figures come from."""

    version: str
    commit: str
    """Of the source tree, "" where there is none; a "+" at its end: with changes."""
    started: str
    """UTC, ISO 8601."""
    machine: str
    """That simulated; only `decide_p50_us` depends on it."""
    command: str


class SimulationReport(msgspec.Struct, frozen=True, kw_only=True):
    trace: str
    requests: int
    profile: ProfileIdentity
    profile_source: str
    pool_blocks: int | None
    """Of each instance; None: so many that nothing is evicted."""
    eviction: str
    ttl_s: float
    confirm_s: float
    seed: int
    origin: Origin
    results: tuple[SimulationResult, ...]


class CacheReport(msgspec.Struct, frozen=True, kw_only=True):
    trace: str
    requests: int
    version: str
    results: tuple[CacheResult, ...]


def simulate(
    trace: Trace,
    base: Setting,
    *,
    origin: Origin,
    policies: Sequence[str],
    sizes: Sequence[int],
    layouts: Sequence[str] = ("colocated",),
    rate_for: int | None = None,
    each: Callable[[SimulationResult], None] = lambda _: None,
) -> SimulationReport:
    """Every policy in every layout at every number of instances, otherwise as `base`.

    With `rate_for` requests come at the speed of `base` to that many instances, and in proportion to others.
    `each` sees every result as it comes. Raises ConfigError, before the first run, for a setting that cannot be.
    """
    settings = [
        msgspec.structs.replace(
            base, policy=policy, instances=size, layout=layout, speed=base.speed * size / (rate_for or size)
        )
        for size in sizes
        for layout in layouts
        for policy in policies
    ]
    for setting in settings:
        check_setting(trace, setting)
    results: list[SimulationResult] = []
    for setting in settings:
        results.append(Simulation(trace, setting).run())
        each(results[-1])
    return SimulationReport(
        trace=trace.name,
        requests=len(trace.requests),
        profile=base.profile.identity,
        profile_source=base.profile.source,
        pool_blocks=base.pool_blocks,
        eviction=base.eviction,
        ttl_s=base.ttl_s,
        confirm_s=base.confirm_s,
        seed=base.seed,
        origin=origin,
        results=tuple(results),
    )


def cache_report(trace: Trace, *, policies: Sequence[str], capacities: Sequence[int]) -> CacheReport:
    """Every policy at every capacity. Raises ConfigError for an unknown policy."""
    results = [replay(trace, policy=policy, capacity_blocks=blocks) for blocks in capacities for policy in policies]
    return CacheReport(
        trace=trace.name, requests=len(trace.requests), version=version("memserve"), results=tuple(results)
    )


def write_json(report: msgspec.Struct, file: Path) -> None:
    """Indented, with a newline at the end. Raises ConfigError when the file cannot be written."""
    try:
        file.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror}; name another file") from error

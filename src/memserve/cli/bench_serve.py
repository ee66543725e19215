"""`memserve bench serve`: options checked, the run put together, the report printed and written.

Owns the exit status: 0 when every system was measured, 1 when one was left out, 130 when it was stopped. A run that
was stopped goes on where it was when the same command is given again.
"""

import asyncio
import sys
from hashlib import blake2b
from pathlib import Path

import aiohttp
import msgspec
import typer
import uvloop
from rich.console import Console

from memserve.bench.records import Missing, now, this_command, this_commit, this_machine
from memserve.bench.serve.journal import Journal, discard
from memserve.bench.serve.launching import Launcher
from memserve.bench.serve.record import ServeReport
from memserve.bench.serve.results import Origin
from memserve.bench.serve.run import ServePlan, ServeRun
from memserve.bench.serve.sessions import Words
from memserve.bench.serve.systems import KV_GIB, NUM_INSTANCES, find_systems
from memserve.bench.serve.table import as_serve_lines
from memserve.bench.serve.workloads import make_workload
from memserve.cli.serve import log_to_stderr, prepared
from memserve.config import ClusterSettings, GatewaySettings, PoolSettings, ServeConfig
from memserve.core.clock import SystemClock
from memserve.core.errors import ConfigError
from memserve.demo.progress import TerminalProgress
from memserve.manager.model_facts import read_model_facts
from memserve.serving.prepare import PreparedRun
from memserve.serving.signals import StopSignals

_STOPPED = 130
_LINE_BYTES = 2**20
"""Longest line of a stream: its first event may repeat the prompt as token ids."""


class ServeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """As typed."""

    json: Path
    workload: str
    systems: str
    rates: str
    num_sessions: int
    num_repetitions: int
    seed: int
    model: str
    data: Path
    peers: Path


def run_serve_bench(options: ServeOptions, *, discarding: bool) -> int:
    """Play, print, write; exit status. Raises ConfigError when something needed is missing."""
    log_to_stderr()
    systems, rates = find_systems(options.systems), _rates(options.rates)
    run = prepared(_config(options.model))
    folder = Path(run.config.model)
    words = Words.of_model(folder)
    workload = make_workload(
        options.workload, num_sessions=options.num_sessions, seed=options.seed, words=words, data=options.data
    )
    plan = ServePlan(
        systems=systems,
        rates=rates,
        num_repetitions=options.num_repetitions,
        workload=workload,
        seed=options.seed,
        context=read_model_facts(folder).max_tokens or sys.maxsize,
        model=run.model_name,
    )
    if discarding:
        discard(options.json)
    origin = _origin(plan, num_sessions=options.num_sessions)
    journal = Journal(options.json, run=origin.run)
    with TerminalProgress(Console(stderr=True)) as progress:
        missing = uvloop.run(
            _play(
                plan,
                run=run,
                words=words,
                journal=journal,
                origin=origin,
                options=options,
                progress=progress,
            )
        )
    report = _report(plan, journal, origin, missing or [])
    for line in as_serve_lines(report):
        typer.echo(line)
    if missing is None:
        typer.echo("stopped; the same command goes on where this was", err=True)
        return _STOPPED
    report.write(options.json)
    return 1 if missing else 0


async def _play(
    plan: ServePlan,
    *,
    run: PreparedRun,
    words: Words,
    journal: Journal,
    origin: Origin,
    options: ServeOptions,
    progress: TerminalProgress,
) -> list[Missing] | None:
    """None when it was stopped from outside."""
    signals = StopSignals.of_this_task()
    logs = options.json.absolute().with_suffix(".logs")
    connector = aiohttp.TCPConnector(limit=0)
    try:
        async with aiohttp.ClientSession(connector=connector, read_bufsize=_LINE_BYTES) as http:
            launcher = Launcher(run=run, peers=options.peers, http=http)
            return await ServeRun(
                plan,
                start=lambda system, label: launcher.running(system, logs=logs / label),
                words=words,
                journal=journal,
                origin=origin,
                http=http,
                clock=SystemClock(),
                progress=progress,
            ).run()
    except asyncio.CancelledError:
        if not signals.asked_to_stop:
            raise
        return None


def _rates(text: str) -> tuple[float, ...]:
    try:
        rates = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f'--rate "{text}": give sessions a second, several with commas, such as 0.1,0.2') from error
    if not all(0 < rate < float("inf") for rate in rates):
        raise ConfigError(f'--rate "{text}": a rate is a positive number of sessions a second')
    return tuple(dict.fromkeys(rates))


def _config(model: str) -> ServeConfig:
    """The cluster of `colocated`: its checks hold for every system, which all take the same room."""
    return ServeConfig(
        model=model,
        cluster=ClusterSettings(colocated=NUM_INSTANCES),
        gateway=GatewaySettings(port=0),
        pool=PoolSettings(dram=f"{KV_GIB // 2}GiB"),
    )


def _origin(plan: ServePlan, *, num_sessions: int) -> Origin:
    what = msgspec.json.encode((plan.workload, plan.seed, plan.context, plan.model))
    return Origin(
        sessions=num_sessions,
        seed=plan.seed,
        commit=this_commit(),
        machine=f"{this_machine().num_cores}x {this_machine().processor}",
        run=blake2b(what, digest_size=8).hexdigest(),
    )


def _report(plan: ServePlan, journal: Journal, origin: Origin, missing: list[Missing]) -> ServeReport:
    return ServeReport(
        bench="serve",
        started=now(),
        machine=this_machine(),
        missing=tuple(missing),
        seed=plan.seed,
        commit=origin.commit,
        model=plan.model,
        scaling=plan.workload.scaling,
        command=this_command(),
        results=tuple(journal.results),
    )

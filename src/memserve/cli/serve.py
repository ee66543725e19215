"""`memserve serve`: a cluster until someone stops it, and what is printed meanwhile.

Owns the lines on the terminal and the exit status: 0 when stopped, 1 when no instance was left.
"""

import asyncio
import logging
import os

import uvloop
from rich.console import Console

from memserve.bundled.model import cache_folder
from memserve.cluster.view import InstanceView
from memserve.config import ServeConfig
from memserve.core.enums import Role
from memserve.manager.launch_plan import LaunchPlan
from memserve.serving.cluster import Cluster, running_cluster
from memserve.serving.garbage import sparing_what_stays
from memserve.serving.prepare import LOOPBACK, PreparedRun, free_ports, prepare
from memserve.serving.signals import StopSignals
from memserve.serving.watcher import Watcher

_log = logging.getLogger(__name__)
_console = Console(highlight=False, soft_wrap=True)
_errors = Console(stderr=True, highlight=False, soft_wrap=True)


def run_serve(config: ServeConfig, *, dry_run: bool) -> int:
    """Serve until stopped; exit status. Raises ConfigError when it cannot start."""
    run = prepared(config)
    if dry_run:
        _console.print(dry_run_text(run), markup=False)
        return 0
    log_to_stderr()
    for warning in run.warnings:
        _log.warning("%s", warning)
    return uvloop.run(_serve(run))


def prepared(config: ServeConfig) -> PreparedRun:
    """Checked and completed settings; says so on stderr before it takes its time. Raises ConfigError."""
    return prepare(config, cache=cache_folder(os.environ), tell=_errors.print)


def dry_run_text(run: PreparedRun) -> str:
    """The commands of the instances, ready to be pasted into a shell."""
    commands = run.plan(manager_endpoint=f"tcp://{LOOPBACK}:{free_ports(1)[0]}").shell()
    if run.secret is None:
        return commands
    return f"{commands}\n\n# and for each, when it starts: a certificate of the cluster, by --ssl-certfile and the like"


def log_to_stderr() -> None:
    """Warnings and errors of all rooms as plain lines on stderr."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")


class _Printer(Watcher):
    """Tells the operator which instances start and when each is ready."""

    def __init__(self, *, has_secret: bool) -> None:
        self._logs: dict[str, str] = {}
        self._secret = "--cluster-secret FILE " if has_secret else ""

    def starting(self, plan: LaunchPlan) -> None:
        self._logs |= {spec.instance: spec.log for spec in plan.specs}
        for spec in plan.specs:
            _console.print(f"starting {spec.instance}, log {spec.log}", markup=False)

    def waiting(self, manager_endpoint: str) -> None:
        command = f"memserve instance --role ROLE {self._secret}--join {manager_endpoint}"
        _console.print(f"waiting for instances: {command}", markup=False)

    def ready(self, instance: InstanceView) -> None:
        if instance.role is Role.MEMORY:
            _console.print(f"{instance.instance} gives the cluster more memory", markup=False)
            return
        log = self._logs.get(instance.instance, "elsewhere")
        _console.print(f"{instance.instance} is ready: {instance.url}, log {log}", markup=False)


async def _serve(run: PreparedRun) -> int:
    signals = StopSignals.of_this_task()
    try:
        async with running_cluster(run, watcher=_Printer(has_secret=run.secret is not None)) as cluster:
            _console.print(usage(cluster.url, cluster.model), markup=False)
            with sparing_what_stays():
                await _until_empty(cluster)
        _console.print("memserve: no instance is left; the lines above say why", markup=False)
        return 1
    except asyncio.CancelledError:
        if not signals.asked_to_stop:
            raise
        _console.print("stopped", markup=False)
        return 0


async def _until_empty(cluster: Cluster) -> None:
    """Returns when no instance is left, is cancelled when someone stops it."""
    try:
        await cluster.wait_empty()
    except asyncio.CancelledError:
        _console.print("stopping")
        raise


def usage(url: str, model: str) -> str:
    """What to do with a cluster that is ready."""
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
    return f"serving {model} on {url}\n  curl {url}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'"

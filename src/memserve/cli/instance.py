"""`memserve instance`: one more instance for a running cluster, until someone stops or drains it.

Owns the lines on the terminal and the exit status: 0 when stopped or drained.
"""

import asyncio
import os

import uvloop
from rich.console import Console

from memserve.bundled.model import cache_folder
from memserve.cli.serve import log_to_stderr
from memserve.core.errors import InstanceUnavailable
from memserve.manager.launch_plan import LaunchSpec
from memserve.manager.launcher import InstanceEnded
from memserve.security.gateway_access import GatewayAccess
from memserve.security.secret import read_secret
from memserve.serving.joined_instance import InstanceOptions, JoinedInstance, find_cluster, prepare_instance
from memserve.serving.signals import StopSignals

_console = Console(highlight=False, soft_wrap=True)


def run_instance(options: InstanceOptions) -> int:
    """Exit status. Raises ConfigError when it cannot start or is refused, InstanceUnavailable when it is given up."""
    log_to_stderr()
    return uvloop.run(_run(options))


class _Printer:
    """Tells the operator how it goes."""

    def __init__(self, spec: LaunchSpec) -> None:
        self._spec = spec

    def became(self, state: str) -> None:
        name = self._spec.instance
        told = {"active": f"{name} is ready: {self._spec.url}", "": f"{name} is not in the cluster"}
        _console.print(told.get(state, f"{name} is {state}"), markup=False)

    def ended(self, end: InstanceEnded) -> None:
        again = "" if end.restart_in_s is None else f"; starting it again in {end.restart_in_s:g} s"
        _console.print(f"{end.instance} ended: {end.why}{again}", markup=False)

    def lost_manager(self, error: InstanceUnavailable) -> None:
        _console.print(f"the cluster manager does not answer; serving on and asking again ({error})", markup=False)


async def _run(options: InstanceOptions) -> int:
    signals = StopSignals.of_this_task()
    try:
        secret = read_secret(options.secret) if options.secret else None
        cluster = await find_cluster(options.join, GatewayAccess(secret=secret, ca=options.ca))
        spec = await asyncio.to_thread(prepare_instance, options, cluster, cache=cache_folder(os.environ))
        _console.print(f"starting {spec.instance} for cluster {cluster.name}, log {spec.log}", markup=False)
        await JoinedInstance(spec, cluster, watcher=_Printer(spec), secret=secret).run()
    except asyncio.CancelledError:
        if not signals.asked_to_stop:
            raise
        _console.print("stopped", markup=False)
        return 0
    _console.print(f"{spec.instance} is drained and stopped", markup=False)
    return 0

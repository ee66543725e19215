"""Launchers for cluster managers in tests: real child processes of this machine."""

from memserve.cluster.restarts import RestartRules
from memserve.core.clock import SystemClock
from memserve.manager.launcher import EndListener
from memserve.manager.local_launcher import LocalLauncher
from memserve.manager.machine import Machine

NO_RESTARTS = RestartRules(max_restarts=0)


def no_restarts(on_end: EndListener) -> LocalLauncher:
    """Whoever ends stays away."""
    return LocalLauncher(machine=Machine.here(), rules=NO_RESTARTS, clock=SystemClock(), on_end=on_end)

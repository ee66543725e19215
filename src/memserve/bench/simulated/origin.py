"""Where a simulation's figures come from: the present source tree, machine, time and command line."""

import shlex
import subprocess
import sys
from pathlib import Path

from memserve import __version__
from memserve.bench.records import now, this_machine
from memserve.simulator.report import Origin

_DEADLINE_S = 10.0


def origin() -> Origin:
    """Of this process."""
    machine = this_machine()
    return Origin(
        version=__version__,
        commit=_commit(),
        started=now(),
        machine=f"{machine.num_cores} x {machine.processor}",
        command=shlex.join(["memserve", *sys.argv[1:]]),
    )


def _commit() -> str:
    """Of the tree that this file lies in; "" where it is installed, or git is not."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--abbrev=10", "--dirty=+", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=_DEADLINE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""

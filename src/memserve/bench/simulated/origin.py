"""Where a simulation's figures come from: the present source tree, machine, time and command line."""

from memserve import __version__
from memserve.bench.records import now, this_command, this_commit, this_machine
from memserve.simulator.report import Origin


def origin() -> Origin:
    """Of this process."""
    machine = this_machine()
    return Origin(
        version=__version__,
        commit=this_commit(),
        started=now(),
        machine=f"{machine.num_cores} x {machine.processor}",
        command=this_command(),
    )

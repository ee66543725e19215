"""Runs instances as child processes of this one, each supervised (supervised.py) and under a guard (child.py)."""

from memserve.cluster.restarts import RestartRules
from memserve.core.clock import Clock
from memserve.manager.child import Child, certified, start
from memserve.manager.launch_plan import LaunchSpec
from memserve.manager.launcher import EndListener
from memserve.manager.machine import Machine
from memserve.manager.supervised import Supervisor
from memserve.security.secret import ClusterSecret


class LocalLauncher(Supervisor[LaunchSpec]):
    """On one event loop."""

    def __init__(
        self,
        *,
        machine: Machine,
        rules: RestartRules,
        clock: Clock,
        on_end: EndListener,
        secret: ClusterSecret | None = None,
    ) -> None:
        async def start_child(spec: LaunchSpec) -> Child[LaunchSpec]:
            return await start(spec, machine, certified(secret))

        super().__init__(start_child, rules=rules, clock=clock, on_end=on_end)

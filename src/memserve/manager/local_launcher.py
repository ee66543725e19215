"""Runs instances as child processes of this one, each supervised: started again with growing waits when it ends.

Owns the children and one task for each. Decides nothing: when to start again is in cluster/restarts.py, what to
run in the LaunchSpec, what an end means is for whoever listens.

    start -> running -> (ended -> waiting -> running)* -> stopped or given up
"""

import asyncio
import logging
from collections.abc import Mapping

from memserve.cluster.restarts import RestartRules, Restarts
from memserve.core.clock import Clock
from memserve.core.errors import ConfigError
from memserve.core.ids import InstanceId
from memserve.manager.child import Child, start
from memserve.manager.launch_plan import LaunchSpec
from memserve.manager.launcher import EndListener, InstanceEnded
from memserve.manager.machine import Machine
from memserve.security.secret import ClusterSecret

_log = logging.getLogger(__name__)


class _Supervised:
    """One instance: the present child, or none while it waits to be started again."""

    def __init__(self, child: Child, restarts: Restarts, task: "asyncio.Task[None] | None" = None) -> None:
        self.spec = child.spec
        self.child: Child | None = child
        self.restarts = restarts
        self.task = task


class LocalLauncher:
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
        self._secret = secret
        self._machine = machine
        self._rules = rules
        self._clock = clock
        self._on_end = on_end
        self._supervised: dict[InstanceId, _Supervised] = {}

    @property
    def specs(self) -> Mapping[InstanceId, LaunchSpec]:
        return {name: one.spec for name, one in self._supervised.items()}

    async def start(self, spec: LaunchSpec) -> None:
        """Raises ConfigError."""
        if spec.instance in self._supervised:
            raise ConfigError(f"{spec.instance} runs here already: choose another name")
        one = _Supervised(await start(spec, self._machine, self._secret), Restarts(self._rules))
        self._supervised[spec.instance] = one
        one.task = asyncio.create_task(self._supervise(one), name=f"supervisor of {spec.instance}")
        _log.info("%s started, log %s", spec.instance, spec.log)

    async def stop(self, instance: InstanceId) -> None:
        one = self._supervised.pop(instance, None)
        if one is None:
            return
        if one.child is not None:
            await one.child.stop()
        if one.task is not None:
            one.task.cancel()
            await asyncio.wait([one.task])

    def fence(self, instance: InstanceId) -> None:
        one = self._supervised.get(instance)
        if one is not None and one.child is not None:
            one.child.kill()

    async def close(self) -> None:
        await asyncio.gather(*(self.stop(instance) for instance in tuple(self._supervised)))

    async def _supervise(self, one: _Supervised) -> None:
        """Until it is stopped or given up."""
        while one.child is not None:
            child, began = one.child, self._clock.now()
            await child.wait()
            if self._supervised.get(one.spec.instance) is not one:
                return  # stopped on purpose
            one.child = None
            wait_s: float | None = one.restarts.ended(ran_s=self._clock.now() - began)
            why = f"{await child.why_it_ended()}; its log is {one.spec.log}"
            while wait_s is not None:
                self._tell(one, why, wait_s)
                await asyncio.sleep(wait_s)
                try:
                    one.child = await start(one.spec, self._machine, self._secret)
                    break
                except ConfigError as error:
                    why, wait_s = str(error), one.restarts.ended(ran_s=0.0)
            else:
                self._supervised.pop(one.spec.instance, None)
                self._tell(one, why, None)

    def _tell(self, one: _Supervised, why: str, wait_s: float | None) -> None:
        self._on_end(
            InstanceEnded(
                instance=one.spec.instance, why=why, restart_in_s=wait_s, num_restarts=one.restarts.num_in_row
            )
        )

    def __repr__(self) -> str:
        return f"LocalLauncher({', '.join(sorted(self._supervised)) or 'nobody'})"

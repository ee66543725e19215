"""Keeps instances running, however one is started: started again with growing waits when it ends.

Owns one task for each instance. Decides nothing: when to start again is in cluster/restarts.py, what to run in the
ProcessSpec, what an end means is for whoever listens; how one is started is handed in.

    start -> running -> (ended -> waiting -> running)* -> stopped or given up
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Generic, Protocol, TypeVar

from memserve.cluster.restarts import RestartRules, Restarts
from memserve.core.clock import Clock
from memserve.core.errors import ConfigError
from memserve.core.ids import InstanceId
from memserve.manager.launch_plan import ProcessSpec
from memserve.manager.launcher import EndListener, InstanceEnded

_log = logging.getLogger(__name__)


S = TypeVar("S", bound=ProcessSpec)
S_co = TypeVar("S_co", bound=ProcessSpec, covariant=True)


class RunningInstance(Protocol[S_co]):
    """One life of an instance."""

    @property
    def spec(self) -> S_co:
        """As it runs."""
        ...

    async def wait(self) -> int:
        """Until it has ended; its exit code as a shell has it."""
        ...

    async def why_it_ended(self) -> str:
        """For an operator, only after `wait`: the reason, and where its log is."""
        ...

    async def stop(self) -> None:
        """End it, gently at first; returns when it is gone, within 10 s. Idempotent."""
        ...

    def kill(self) -> None:
        """End it at once; `wait` tells when."""
        ...


Starter = Callable[[S], Awaitable[RunningInstance[S]]]
"""Raises ConfigError when it cannot be done."""


class _Supervised(Generic[S]):
    """One instance: the present life, or none while it waits to be started again."""

    def __init__(self, life: RunningInstance[S], restarts: Restarts, task: "asyncio.Task[None] | None" = None) -> None:
        self.spec = life.spec
        self.life: RunningInstance[S] | None = life
        self.restarts = restarts
        self.task = task


class Supervisor(Generic[S]):
    """On one event loop. Of instances, it fits Launcher."""

    def __init__(self, start_one: Starter[S], *, rules: RestartRules, clock: Clock, on_end: EndListener) -> None:
        self._start_one = start_one
        self._rules = rules
        self._clock = clock
        self._on_end = on_end
        self._supervised: dict[InstanceId, _Supervised[S]] = {}

    @property
    def specs(self) -> Mapping[InstanceId, S]:
        return {name: one.spec for name, one in self._supervised.items()}

    async def start(self, spec: S) -> None:
        """Raises ConfigError."""
        if spec.instance in self._supervised:
            raise ConfigError(f"{spec.instance} runs here already: choose another name")
        one = _Supervised(await self._start_one(spec), Restarts(self._rules))
        self._supervised[spec.instance] = one
        one.task = asyncio.create_task(self._supervise(one), name=f"supervisor of {spec.instance}")
        _log.info("%s started, log %s", spec.instance, spec.log)

    async def stop(self, instance: InstanceId) -> None:
        one = self._supervised.pop(instance, None)
        if one is None:
            return
        if one.life is not None:
            await one.life.stop()
        if one.task is not None:
            one.task.cancel()
            await asyncio.wait([one.task])

    def fence(self, instance: InstanceId) -> None:
        one = self._supervised.get(instance)
        if one is not None and one.life is not None:
            one.life.kill()

    async def close(self) -> None:
        await asyncio.gather(*(self.stop(instance) for instance in tuple(self._supervised)))

    async def _supervise(self, one: _Supervised[S]) -> None:
        """Until it is stopped or given up."""
        while one.life is not None:
            life, began = one.life, self._clock.now()
            await life.wait()
            if self._supervised.get(one.spec.instance) is not one:
                return  # stopped on purpose
            one.life = None
            wait_s: float | None = one.restarts.ended(ran_s=self._clock.now() - began)
            why = await life.why_it_ended()
            while wait_s is not None:
                self._tell(one, why, wait_s)
                await asyncio.sleep(wait_s)
                try:
                    one.life = await self._start_one(one.spec)
                    one.spec = one.life.spec
                    break
                except ConfigError as error:
                    why, wait_s = str(error), one.restarts.ended(ran_s=0.0)
            else:
                self._supervised.pop(one.spec.instance, None)
                self._tell(one, why, None)

    def _tell(self, one: _Supervised[S], why: str, wait_s: float | None) -> None:
        self._on_end(
            InstanceEnded(
                instance=one.spec.instance, why=why, restart_in_s=wait_s, num_restarts=one.restarts.num_in_row
            )
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(sorted(self._supervised)) or 'nobody'})"

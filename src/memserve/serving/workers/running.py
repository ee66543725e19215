"""The further workers of a gateway as child processes: started, kept running, and ended with the block.

Owns the processes, by the same supervision as instances have (manager/supervised.py), but for that they are never
given up: the others serve meanwhile. Each has a guard above it, so none outlives this process.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from memserve.cluster.restarts import RestartRules
from memserve.core.clock import Clock
from memserve.core.errors import ConfigError
from memserve.core.ids import InstanceId
from memserve.manager.child import Child, start
from memserve.manager.launch_plan import ProcessSpec
from memserve.manager.launcher import InstanceEnded
from memserve.manager.machine import Machine
from memserve.manager.supervised import Supervisor
from memserve.serving.workers.head import Head
from memserve.serving.workers.plan import WorkerPlan, handed

START_S = 120.0
_FOR_EVER = 1000
_MODULE = "memserve.serving.workers.process"
_log = logging.getLogger(__name__)


@asynccontextmanager
async def running_workers(
    head: Head, plan: WorkerPlan, *, machine: Machine, log_folder: Path, clock: Clock
) -> AsyncIterator[None]:
    """All of `plan.config.gateway.workers` but this one, serving when the block begins; `plan` is of the first.

    Raises ConfigError with the reason from its log when one ends while starting.
    """
    crew = _Crew(head, plan, machine=machine, log_folder=log_folder, clock=clock)
    try:
        await crew.start()
        watching = asyncio.create_task(head.watch(crew.fence), name="watch over the workers")
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.wait([watching])
    finally:
        await crew.close()


class _Crew:
    def __init__(self, head: Head, plan: WorkerPlan, *, machine: Machine, log_folder: Path, clock: Clock) -> None:
        self._head = head
        self._plan = plan
        self._machine = machine
        self._log_folder = log_folder
        self._numbers = {_name(number): number for number in range(1, plan.config.gateway.workers)}
        self._starting = True
        self._failure = asyncio.get_running_loop().create_future()
        rules = RestartRules(max_restarts=_FOR_EVER)
        self._supervisor: Supervisor[ProcessSpec] = Supervisor(
            self._start_one, rules=rules, clock=clock, on_end=self._ended
        )

    async def start(self) -> None:
        """Until all serve."""
        for name in self._numbers:
            log = str(self._log_folder / f"{name}.log")
            await self._supervisor.start(
                ProcessSpec(instance=name, argv=(self._machine.python, "-m", _MODULE), log=log)
            )
        serving = asyncio.create_task(self._until_serving(), name="workers start")
        try:
            await asyncio.wait({serving, self._failure}, timeout=START_S, return_when=asyncio.FIRST_COMPLETED)
            self._starting = False
            if not serving.done():
                silent = f"not every worker serves after {START_S:g} s; their logs are in {self._log_folder}"
                raise ConfigError(self._failure.result() if self._failure.done() else silent)
        finally:
            serving.cancel()
            await asyncio.wait([serving])

    async def _until_serving(self) -> None:
        for number in self._numbers.values():
            await self._head.wait_serving(number)

    def fence(self, number: int) -> None:
        self._supervisor.fence(_name(number))

    async def close(self) -> None:
        await self._supervisor.close()

    async def _start_one(self, spec: ProcessSpec) -> Child[ProcessSpec]:
        plan = msgspec.structs.replace(self._plan, worker=self._numbers[spec.instance])
        return await start(spec, self._machine, handed(plan))

    def _ended(self, end: InstanceEnded) -> None:
        self._head.ended(self._numbers[end.instance])
        if self._starting:
            if not self._failure.done():
                self._failure.set_result(f"{end.instance} ended: {end.why}")
            return
        _log.error(
            "%s ended: %s; the other workers serve on, starting it again in %g s",
            end.instance, end.why, end.restart_in_s or 0.0,
        )  # fmt: skip


def _name(number: int) -> InstanceId:
    return InstanceId(f"gateway-worker-{number}")

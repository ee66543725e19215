"""The cluster grows, shrinks and changes roles while it serves: an operator's commands carried out.

Owns the operations under way, each in a task of its own. What is allowed is decided in cluster/elasticity.py
and by membership, at once and with the reason; what takes time is an Operation that can be followed.

    built -> running (inside the event loop) -> commands -> all tasks ended
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from memserve.cluster.elasticity import scale_steps
from memserve.cluster.view import InstanceState
from memserve.core.enums import Role
from memserve.core.errors import ConfigError, MemserveError
from memserve.core.ids import InstanceId
from memserve.manager.drain import Drain
from memserve.manager.launch_plan import LaunchSpec
from memserve.manager.manager import ClusterManager
from memserve.manager.operations import Operation, OperationKind, Operations, OperationState

START_S = 1800.0
"""For the slowest instance to load its weights."""
_log = logging.getLogger(__name__)

SpecMaker = Callable[[Sequence[Role], Collection[InstanceId]], Coroutine[Any, Any, Sequence[LaunchSpec]]]
"""Specs for instances of these roles under names that are not taken. Raises ConfigError when they cannot be here."""


class Elasticity:
    """Of one cluster manager, on its event loop."""

    def __init__(
        self, manager: ClusterManager, *, in_flight: Callable[[InstanceId], int], make_specs: SpecMaker
    ) -> None:
        """`in_flight` says how many of the gateway's requests are on their way to or at an instance."""
        self._manager = manager
        self._in_flight = in_flight
        self._make_specs = make_specs
        self._scaling = asyncio.Lock()
        self._group: asyncio.TaskGroup | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.operations = Operations()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Commands are carried out for the length of the block."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            self._manager.let_drain(self._drain_itself)
            try:
                yield
            finally:
                self._group = None
                for task in self._tasks:
                    task.cancel()

    async def drain(self, instance: InstanceId) -> Operation:
        """Let it finish, hand its cache on and go. Raises ConfigError with the reason when it must not."""
        under_way = self.operations.running(OperationKind.DRAIN, instance)
        if under_way is not None:
            return under_way
        await self._manager.ask_drain(instance)
        present = self._manager.view.find(instance)
        if present is None:
            raise ConfigError(f"{instance} has just left")
        operation = self.operations.begin(OperationKind.DRAIN, instance, "takes no new requests")
        drain = Drain(
            present,
            manager=self._manager,
            in_flight=self._in_flight,
            tell=lambda step: self._tell(operation, step),
        )
        self._carry_out(operation, drain.run())
        return operation

    async def scale(self, wanted: Mapping[Role, int]) -> tuple[Operation, ...]:
        """To these numbers, by starting and draining. Raises ConfigError, with nothing started, when that cannot be."""
        async with self._scaling:
            starting = self.starting
            steps = scale_steps(self._manager.view, wanted, starting=starting)
            taken = {*self._manager.launcher.specs, *(i.instance for i in self._manager.view.instances)}
            specs = await self._make_specs(steps.start, taken) if steps.start else ()
            begun = [await self._start(spec) for spec in specs]
            return (*begun, *[await self.drain(instance) for instance in steps.drain])

    async def change_role(self, instance: InstanceId, role: Role) -> Operation:
        """From the next request on. Raises ConfigError with the reason when it cannot or must not become that."""
        before = self._manager.view.find(instance)
        await self._manager.ask_role(instance, role)
        operation = self.operations.begin(OperationKind.ROLE, instance, "")
        was = before.role if before is not None else role
        return self.operations.tell(operation, f"was {was}, is {role}; its cache stays", OperationState.DONE)

    @property
    def starting(self) -> Counter[Role]:
        """Own instances that have not joined yet."""
        joined = {i.instance for i in self._manager.view.instances}
        return Counter(spec.role for name, spec in self._manager.launcher.specs.items() if name not in joined)

    async def _start(self, spec: LaunchSpec) -> Operation:
        await self._manager.launch([spec])
        operation = self.operations.begin(OperationKind.START, spec.instance, f"starting, log {spec.log}")
        self._carry_out(operation, self._until_active(spec))
        return operation

    async def _until_active(self, spec: LaunchSpec) -> str:
        async with asyncio.timeout(START_S):
            while True:
                present = self._manager.view.find(spec.instance)
                if present is not None and present.state is InstanceState.ACTIVE:
                    return f"serves on {present.url}"
                if refusal := self._manager.refusal_of(spec.instance):
                    await self._manager.launcher.stop(spec.instance)
                    raise ConfigError(f"{spec.instance} is refused: {refusal}")
                if spec.instance not in self._manager.launcher.specs:
                    raise ConfigError(self._manager.failure_of(spec.instance) or f"{spec.instance} was stopped")
                await self._manager.wait_change()

    async def _drain_itself(self, instance: InstanceId) -> None:
        """An instance asks for it."""
        await self.drain(instance)

    def _tell(self, operation: Operation, step: str) -> None:
        self.operations.tell(operation, step)

    def _carry_out(self, operation: Operation, work: Coroutine[Any, Any, str]) -> None:
        if self._group is None:
            work.close()
            raise ConfigError("this cluster is stopping: nothing is changed any more")
        task = self._group.create_task(self._follow(operation, work), name=f"{operation.kind} {operation.instance}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _follow(self, operation: Operation, work: Coroutine[Any, Any, str]) -> None:
        try:
            self.operations.tell(operation, await work, OperationState.DONE)
        except (MemserveError, TimeoutError) as error:
            why = str(error) or f"not within {START_S:g} s"
            _log.warning("%s of %s failed: %s", operation.kind, operation.instance, why)
            self.operations.tell(operation, why, OperationState.FAILED)

    def __repr__(self) -> str:
        return f"Elasticity({self.operations})"

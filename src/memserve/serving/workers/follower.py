"""A further worker's side: it follows worker 0, for the cluster view, what was chosen, and reports of its requests.

Owns the latest view, which stays when worker 0 does not answer: requests are served with the cluster as it was.
Changes nothing of the cluster; what it is asked of that was handed to worker 0 before.

    built -> running (inside the event loop) -> first view -> ... -> all ended

Bounds: MAX_FAULTS faults wait to be told, further ones are dropped: worker 0 hears of that instance anyway.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from memserve.cluster.view import ClusterView, InstanceState
from memserve.core.enums import Role
from memserve.core.errors import ConfigError, MemserveError, ProtocolError
from memserve.core.ids import Incarnation, InstanceId
from memserve.gateway.worker_messages import (
    AppReply,
    AppRequest,
    Books,
    Choices,
    FaultRequest,
    FollowReply,
    FollowRequest,
    WorkerMessage,
)
from memserve.manager.operations import Operation, Operations
from memserve.rpc.channel import RpcClient
from memserve.wire.messages import PathCheck, RequestReport

MAX_FAULTS = 256
FORWARD_S = 75.0
"""For what worker 0 has to ask of an instance first."""
_FOLLOW_S = 3.0
_PAUSE_S = 0.1
"""Between two questions: what comes meanwhile is told in one go."""
_AGAIN_S = 0.5
_log = logging.getLogger(__name__)


class Follower:
    """Of one worker. Fits Membership and ElasticCluster."""

    endpoint = ""
    path_checks: tuple[PathCheck, ...] = ()
    failures: tuple[str, ...] = ()

    def __init__(
        self,
        head: RpcClient[WorkerMessage],
        *,
        worker: int,
        endpoint: str,
        books: Callable[[ClusterView], Books],
        on_choices: Callable[[Choices], None],
        on_report: Callable[[RequestReport], None],
    ) -> None:
        """`endpoint` is where this worker answers; `books` are read each time that worker 0 is asked."""
        self.operations = Operations()
        self.is_serving = False
        self._head = head
        self._worker = worker
        self._endpoint = endpoint
        self._books = books
        self._on_choices = on_choices
        self._on_report = on_report
        self._on_view: Callable[[ClusterView], None] = lambda _: None
        self._view = ClusterView()
        self._seen = 0
        self._choices: Choices | None = None
        self._answers = True
        self._followed = asyncio.Event()
        self._faults: asyncio.Queue[FaultRequest] = asyncio.Queue(MAX_FAULTS)

    @property
    def view(self) -> ClusterView:
        return self._view

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follows for the length of the block, which begins with the first view."""
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._keep_following(), name="following worker 0"),
                group.create_task(self._tell_faults(), name="faults for worker 0"),
            ]
            try:
                await self._followed.wait()
                yield
            finally:
                for task in tasks:
                    task.cancel()

    def follow(self, on_view: Callable[[ClusterView], None]) -> None:
        """Hand on each view from the present one on."""
        self._on_view = on_view
        on_view(self._view)

    def request_failed(self, instance: InstanceId, incarnation: Incarnation, why: str) -> None:
        try:
            self._faults.put_nowait(FaultRequest(instance=instance, incarnation=incarnation, why=why))
        except asyncio.QueueFull:
            _log.warning("%s failed a request (%s); too many faults wait to be told", instance, why)

    async def forward(self, request: AppRequest) -> AppReply:
        """Worker 0's answer. Raises MemserveError when there is none."""
        reply = await self._head.call(request, deadline_s=FORWARD_S)
        if not isinstance(reply, AppReply):
            raise ProtocolError(f"worker 0 answered an AppRequest with {type(reply).__name__}")
        return reply

    async def drain(self, instance: InstanceId) -> Operation:
        raise self._refusal(f"drains {instance}")

    async def scale(self, wanted: Mapping[Role, int]) -> tuple[Operation, ...]:
        raise self._refusal(f"scales to {dict(wanted)}")

    async def change_role(self, instance: InstanceId, role: Role) -> Operation:
        raise self._refusal(f"makes {instance} {role}")

    def _refusal(self, what: str) -> ConfigError:
        return ConfigError(f"worker {self._worker} only serves: it is worker 0 that {what}")

    async def _keep_following(self) -> None:
        while True:
            try:
                await self._follow_once()
                self._answers = True
                await asyncio.sleep(_PAUSE_S)
            except MemserveError as error:
                if self._answers:
                    _log.warning("worker 0 does not answer; serving goes on with the cluster as it was: %s", error)
                self._answers = False
                await asyncio.sleep(_AGAIN_S)

    async def _follow_once(self) -> None:
        asked = FollowRequest(
            worker=self._worker,
            pid=os.getpid(),
            endpoint=self._endpoint,
            is_serving=self.is_serving,
            seen=self._seen,
            books=self._books(self._view),
        )
        reply = await self._head.call(asked, deadline_s=_FOLLOW_S)
        if not isinstance(reply, FollowReply):
            raise ProtocolError(f"worker 0 answered a FollowRequest with {type(reply).__name__}")
        if reply.view is not None:
            self._view = reply.view
            self._on_view(reply.view)
        if reply.choices != self._choices:
            self._choices = reply.choices
            self._on_choices(reply.choices)
        for report in reply.reports:
            self._on_report(report)
        self._seen = reply.serial
        self._followed.set()

    async def _tell_faults(self) -> None:
        while True:
            fault = await self._faults.get()
            try:
                await self._head.call(fault, deadline_s=_FOLLOW_S)
            except MemserveError as error:
                _log.warning("worker 0 was not told of a fault at %s: %s", fault.instance, error)

    def __repr__(self) -> str:
        return f"Follower(worker {self._worker}, epoch {self._view.epoch}, {'in step' if self._answers else 'away'})"


def draining(view: ClusterView, num_in_flight: Callable[[InstanceId], int]) -> dict[InstanceId, int]:
    """Requests that still need those instances of the view which are on their way out."""
    return {i.instance: num_in_flight(i.instance) for i in view.instances if i.state is InstanceState.DRAINING}

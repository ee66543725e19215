"""An instance's side of membership: joins the cluster manager, says that it lives, reports, leaves.

Runs in the agent's loop from `run` until it is cancelled, then leaves. A manager that does not answer, or
that forgot this incarnation, is joined again; the instance serves on meanwhile. One that was taken for dead by
a manager that goes on joins no more: what it held is others' now. Reports wait in a bounded
queue and go out in order; when it is full the oldest is dropped and counted. A report whose answer is lost
goes out again: the manager may see it twice.
"""

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

from memserve.cluster.member import Member
from memserve.core.errors import InstanceUnavailable, LeaseLost, MemserveError, ProtocolError, SecretRefused
from memserve.core.ids import Incarnation, InstanceId
from memserve.wire.messages import (
    DrainRequest,
    HeartbeatReply,
    JoinReply,
    JoinRequest,
    LeaveRequest,
    Load,
    PeerInfo,
    ReportRequest,
    RequestReport,
)

_DEADLINE_S = 5.0
_LEAVE_DEADLINE_S = 1.0
_RETRY_S = 1.0
_log = logging.getLogger(__name__)


class ManagerLink(Protocol):
    """Carries what a member says, and the answers: RpcClient to one manager, or EtcdLink to all that share etcd."""

    async def call(self, message: object, *, deadline_s: float) -> object: ...

    async def close(self) -> None: ...


class MembershipClient:
    """One instance's membership in one cluster."""

    def __init__(
        self,
        *,
        link: ManagerLink,
        join: JoinRequest,
        load: Callable[[], Load],
        peer_died: Callable[[InstanceId, Incarnation], None],
        dismissed: Callable[[], None],
        fenced: Callable[[], None],
        use_memory: Callable[[tuple[PeerInfo, ...]], None],
        max_reports: int = 1024,
    ) -> None:
        """All the callables are called in the agent's loop and must not block.

        `fenced` hears once that this life was taken for dead: it is not joined again.
        """
        self._client = link
        self._member = Member(join)
        self._load = load
        self._peer_died = peer_died
        self._dismissed = dismissed
        self._fenced = fenced
        self._use_memory = use_memory
        self._max_reports = max_reports
        self._reports: deque[RequestReport] = deque()
        self._lock = threading.Lock()
        self._waiting = asyncio.Event()
        self._num_dropped = 0
        self._refusal = ""

    @property
    def num_dropped(self) -> int:
        """Reports that were dropped because the manager did not take them in time."""
        return self._num_dropped

    def report(self, report: RequestReport) -> None:
        """Queue a report, from any thread; `wake` sends it."""
        with self._lock:
            if len(self._reports) >= self._max_reports:
                self._reports.popleft()
                self._num_dropped += 1
            self._reports.append(report)

    def wake(self) -> None:
        """In the agent's loop: there is something to send."""
        self._waiting.set()

    async def run(self) -> None:
        """Until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._live())
                group.create_task(self._send_reports())
        finally:
            await self._leave()

    async def ask_drain(self) -> None:
        """Raises InstanceUnavailable when no manager answers, ConfigError when it refuses."""
        me = self._member.identity
        request = DrainRequest(instance=me.instance, incarnation=me.incarnation)
        await self._client.call(request, deadline_s=_DEADLINE_S)

    async def _live(self) -> None:
        heartbeat_s = _RETRY_S
        while True:
            try:
                reply = await self._client.call(self._member.next_message(self._load()), deadline_s=_DEADLINE_S)
                heartbeat_s = self._answered(reply) or heartbeat_s
            except LeaseLost as error:
                self._member.lost()
                _log.error("cluster manager: %s", error)
                self._fenced()
                return
            except MemserveError as error:
                self._failed(error)
            await asyncio.sleep(heartbeat_s if self._member.is_inside else _RETRY_S)

    def _answered(self, reply: object) -> float | None:
        """Seconds between heartbeats where the answer tells them."""
        if not isinstance(reply, JoinReply | HeartbeatReply):
            raise ProtocolError(f"the cluster manager answered with {type(reply).__name__}")
        for dead in self._member.answered(reply):
            self._peer_died(dead.instance, dead.incarnation)
        if isinstance(reply, HeartbeatReply):
            self._use_memory(reply.memory)
        self._refusal = ""
        if isinstance(reply, HeartbeatReply) and reply.dismissed:
            self._dismissed()
        return reply.heartbeat_s if isinstance(reply, JoinReply) else None

    def _failed(self, error: MemserveError) -> None:
        """Say it once, not at every attempt; one that was never inside may be early, and waits for its manager."""
        is_news = (
            self._member.is_inside or not isinstance(error, InstanceUnavailable) or isinstance(error, SecretRefused)
        )
        self._member.lost()
        if is_news and str(error) != self._refusal:
            self._refusal = str(error)
            _log.warning("cluster manager: %s; asking again every %g s", error, _RETRY_S)

    async def _send_reports(self) -> None:
        while True:
            await self._waiting.wait()
            self._waiting.clear()
            while self._reports:
                await self._send_first()

    async def _send_first(self) -> None:
        """The report leaves the queue when it is answered, by whatever answer."""
        with self._lock:
            report = self._reports[0]
        try:
            await self._client.call(ReportRequest(report=report), deadline_s=_DEADLINE_S)
        except InstanceUnavailable:
            await asyncio.sleep(_RETRY_S)
            return
        except MemserveError as error:
            _log.warning("report on request %s was refused: %s", report.request, error)
            self._num_dropped += 1
        with self._lock:
            if self._reports and self._reports[0] is report:
                self._reports.popleft()

    async def _leave(self) -> None:
        """Send what is queued and say goodbye, for a second at most each."""
        me = self._member.identity
        deadline_s = _LEAVE_DEADLINE_S if self._member.is_inside else 0
        with contextlib.suppress(InstanceUnavailable, TimeoutError):
            async with asyncio.timeout(deadline_s):
                while self._reports:
                    await self._send_first()
        with contextlib.suppress(InstanceUnavailable, LeaseLost, TimeoutError):
            async with asyncio.timeout(deadline_s):
                goodbye = LeaveRequest(instance=me.instance, incarnation=me.incarnation)
                await self._client.call(goodbye, deadline_s=_LEAVE_DEADLINE_S)
        await self._client.close()

    def __repr__(self) -> str:
        return f"MembershipClient({self._member}, {len(self._reports)} reports waiting, {self._num_dropped} dropped)"

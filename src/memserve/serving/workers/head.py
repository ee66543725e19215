"""Worker 0's side: the others follow it, and what only it or only one of them can answer goes where it belongs.

Owns what is known of each of the others, and what each has still to be told. Decides nothing of the cluster: the
cluster manager beside it does.

    built -> running (serve, watch the others) -> all ended        with one worker it listens nowhere

Bounds: the latest MAX_REPORTS reports wait for a worker, older ones are dropped; a worker that says nothing for
SILENT_S while this process does not stand still itself is ended, and started again by whoever runs it.
"""

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from starlette.types import ASGIApp

from memserve.cluster.view import ClusterView
from memserve.core.errors import InstanceUnavailable, MemserveError, ProtocolError
from memserve.core.ids import InstanceId
from memserve.gateway.in_process import answer_of
from memserve.gateway.other_workers import WorkerState
from memserve.gateway.ports import Membership
from memserve.gateway.worker_ids import owner_of
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
from memserve.rpc.channel import RpcClient, RpcServer, Sender
from memserve.security.secret import ClusterSecret, Purpose
from memserve.wire.messages import AckReply, RequestReport

MAX_REPORTS = 10_000
SILENT_S = 10.0
_HOST = "127.0.0.1"
_KEY_BYTES = 32
_WAIT_S = 0.5
"""A worker is answered after so long at the latest: how old the loads are that it knows of."""
_ASK_S = 5.0
_CHOOSE_S = 2.0
_TICK_S = 1.0
_log = logging.getLogger(__name__)


class _Other:
    """One of the other workers."""

    def __init__(self) -> None:
        self.pid = 0
        self.endpoint = ""
        self.is_serving = False
        self.seen = 0
        self.books = Books()
        self.reports: deque[RequestReport] = deque(maxlen=MAX_REPORTS)
        self.told: ClusterView | None = None
        self.news = asyncio.Event()
        self.num_restarts = 0
        self.silent_s = 0.0

    def heard(self, asked: FollowRequest) -> None:
        self.pid, self.endpoint, self.is_serving = asked.pid, asked.endpoint, asked.is_serving
        self.seen, self.books, self.silent_s = asked.seen, asked.books, 0.0

    def gone(self) -> None:
        self.pid, self.is_serving, self.books, self.seen = 0, False, Books(), 0
        self.reports.clear()


class Head:
    """Of one gateway, on one event loop. Fits OtherWorkers."""

    def __init__(
        self,
        *,
        num_workers: int,
        choices: Callable[[], Choices],
        own_report: Callable[[RequestReport], None],
        secret: ClusterSecret | None,
    ) -> None:
        """`num_workers` counts this one; `own_report` takes the reports of requests that are served here.

        `secret` is the cluster's, which the admin API asks for.
        """
        self.key = secrets.token_bytes(_KEY_BYTES)
        """What the workers of this run prove to know when they talk."""
        self._choices = choices
        self._own_report = own_report
        self._key = ClusterSecret(self.key)
        token = () if secret is None else (f"Bearer {secret.token(Purpose.ADMIN_HTTP)}".encode(),)
        self._headers = tuple((b"authorization", each) for each in token)
        self._others = {number: _Other() for number in range(1, num_workers)}
        self._serial = 1
        self._app: ASGIApp | None = None
        self._cluster: Membership | None = None
        self._heard = asyncio.Event()
        self._server: RpcServer[WorkerMessage] = RpcServer(_HOST, self._answer, WorkerMessage, secret=self._key)

    @property
    def endpoint(self) -> str:
        """Where the others follow; "" before `running`."""
        return self._server.endpoint

    @asynccontextmanager
    async def running(self, app: ASGIApp, cluster: Membership) -> AsyncIterator[None]:
        """Answers the others for the length of the block; `app` is this gateway's, open already."""
        if not self._others:
            yield
            return
        self._app, self._cluster = app, cluster
        await self._server.start()
        try:
            yield
        finally:
            await self._server.close()

    async def watch(self, end: Callable[[int], None]) -> None:
        """Until it is cancelled: `end` is called with each worker that stands still."""
        while True:
            await asyncio.sleep(_TICK_S)
            for number, other in self._others.items():
                # Time is counted in ticks of this process: while it stands still itself, nobody's silence counts.
                other.silent_s += _TICK_S if other.pid else 0.0
                if other.silent_s > SILENT_S:
                    _log.error("worker %d (pid %d) stands still for %g s: it is ended", number, other.pid, SILENT_S)
                    other.silent_s = 0.0
                    end(number)

    async def wait_serving(self, number: int) -> None:
        """Until this one listens."""
        while not self._others[number].is_serving:
            await self._heard.wait()

    def ended(self, number: int) -> None:
        """Its process is gone; it will be started again."""
        other = self._others[number]
        other.gone()
        other.num_restarts += 1

    def ingest(self, report: RequestReport) -> None:
        """To the worker whose request it is. Fits the manager's on_report."""
        owner = owner_of(report.request)
        other = self._others.get(owner) if owner is not None else None
        if other is None:
            self._own_report(report)
        elif other.pid:
            other.reports.append(report)
            other.news.set()

    def changed(self) -> None:
        """The view has a new epoch, or something was chosen: all are told at once."""
        self._serial += 1
        for other in self._others.values():
            other.news.set()

    def num_in_flight(self, draining: InstanceId) -> int:
        """Requests of the others that still need this instance, which is on its way out."""
        return sum(other.books.draining.get(draining, 0) for other in self._others.values())

    # ------------------------------------------------------------ as the routes see them

    def states(self) -> tuple[WorkerState, ...]:
        return tuple(
            WorkerState(
                worker=number,
                pid=other.pid if other.is_serving else 0,
                num_in_flight=other.books.num_in_flight,
                num_restarts=other.num_restarts,
            )
            for number, other in self._others.items()
        )

    def books(self) -> tuple[Books, ...]:
        return tuple(other.books for other in self._others.values() if other.pid)

    async def ask(self, path: str, query: bytes = b"") -> dict[int, AppReply]:
        numbers = [number for number, other in self._others.items() if other.is_serving]
        replies = await asyncio.gather(*(self._get(number, path, query) for number in numbers))
        return {number: reply for number, reply in zip(numbers, replies, strict=True) if reply is not None}

    async def ask_owner(self, worker: int, path: str) -> AppReply | None:
        is_there = worker in self._others and self._others[worker].is_serving
        return await self._get(worker, path, b"") if is_there else None

    async def follow_choices(self) -> None:
        self.changed()
        wanted = self._serial
        try:
            async with asyncio.timeout(_CHOOSE_S):
                while any(other.is_serving and other.seen < wanted for other in self._others.values()):
                    await self._heard.wait()
        except TimeoutError:
            _log.warning("not every worker has told within %g s that it goes by what was chosen", _CHOOSE_S)

    async def _get(self, worker: int, path: str, query: bytes) -> AppReply | None:
        client: RpcClient[WorkerMessage] = RpcClient(self._others[worker].endpoint, WorkerMessage, secret=self._key)
        asked = AppRequest(method="GET", path=path, query=query, headers=self._headers)
        try:
            reply = await client.call(asked, deadline_s=_ASK_S)
        except MemserveError as error:
            _log.warning("worker %d does not answer %s: %s", worker, path, error)
            return None
        finally:
            await client.close()
        return reply if isinstance(reply, AppReply) else None

    # ------------------------------------------------------------ what the others ask

    async def _answer(self, message: WorkerMessage, _sender: Sender) -> WorkerMessage:
        if self._app is None or self._cluster is None:
            raise InstanceUnavailable("worker 0 does not serve yet")
        match message:
            case FollowRequest():
                return await self._follow(message, self._cluster)
            case FaultRequest(instance=instance, incarnation=incarnation, why=why):
                self._cluster.request_failed(instance, incarnation, why)
                return AckReply()
            case AppRequest():
                return await answer_of(self._app, message)
            case _:
                raise ProtocolError(f"{type(message).__name__} is no request to worker 0")

    async def _follow(self, asked: FollowRequest, cluster: Membership) -> FollowReply:
        other = self._others.get(asked.worker)
        if other is None:
            raise InstanceUnavailable(f"there is no worker {asked.worker} of {len(self._others) + 1}")
        other.heard(asked)
        self._heard.set()
        self._heard = asyncio.Event()
        other.news.clear()
        is_behind = asked.seen < self._serial
        if not is_behind and not other.reports:
            try:
                async with asyncio.timeout(_WAIT_S):
                    await other.news.wait()
            except TimeoutError:
                is_behind = cluster.view is not other.told  # the same instances, with newer loads
        view = cluster.view if is_behind or asked.seen < self._serial else None
        other.told = view or other.told
        reports = tuple(other.reports)
        other.reports.clear()
        return FollowReply(serial=self._serial, choices=self._choices(), view=view, reports=reports)

    def __repr__(self) -> str:
        serving = [number for number, other in self._others.items() if other.is_serving]
        return f"Head({self.endpoint or 'alone'}, workers {serving} of {len(self._others)} serve)"

"""Joining, living, reporting and leaving, against a cluster manager that does as the test says."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from memserve.core.enums import Phase, Role
from memserve.core.errors import LeaseLost
from memserve.core.ids import Epoch, RequestId
from memserve.instance.mempool import MemPool
from memserve.rpc.channel import RpcServer
from memserve.wire.messages import (
    AckReply,
    ClusterMessage,
    DeadInstance,
    HeartbeatReply,
    HeartbeatRequest,
    JoinReply,
    JoinRequest,
    LeaveRequest,
    Load,
    ReportRequest,
    RequestReport,
)
from tests.fakes.waiting import Changes


class ManagerDesk:
    """Answers as a cluster manager would, and keeps what it was told."""

    def __init__(self) -> None:
        self.messages: list[object] = []
        self.known = True
        self.is_fenced = False
        self.dead: tuple[DeadInstance, ...] = ()
        self.changes = Changes()

    def count(self, kind: type) -> int:
        return sum(isinstance(message, kind) for message in self.messages)

    async def handle(self, message: object, _sender: bytes) -> object:
        self.messages.append(message)
        self.changes.happened()
        if isinstance(message, JoinRequest) and self.is_fenced:
            raise LeaseLost("taken for dead")
        if isinstance(message, JoinRequest):
            return JoinReply(epoch=Epoch(1), heartbeat_s=0.02)
        if isinstance(message, HeartbeatRequest):
            known, self.known = self.known, True
            return HeartbeatReply(epoch=Epoch(1), known=known, dead=self.dead)
        return AckReply()


@pytest.fixture
async def desk() -> ManagerDesk:
    return ManagerDesk()


@pytest.fixture
async def manager(desk: ManagerDesk) -> AsyncIterator[RpcServer[object]]:
    server: RpcServer[object] = RpcServer("127.0.0.1", desk.handle, ClusterMessage)
    await server.start()
    yield server
    await server.close()


def join(pool: MemPool, manager: RpcServer[object]) -> None:
    pool.membership.join(
        manager.endpoint, cluster="c", role=Role.DECODE, url="http://x", load=lambda: Load(num_running=3)
    )


def report(number: int) -> RequestReport:
    return RequestReport(
        request=RequestId(str(number)),
        instance="a",
        phase=Phase.DECODE,
        prompt_tokens=1,
        hbm_tokens=0,
        dram_tokens=0,
        received_tokens=0,
        computed_tokens=1,
        output_tokens=1,
    )


async def test_a_pool_joins_says_its_load_and_leaves(a: MemPool, desk: ManagerDesk, manager: RpcServer[object]) -> None:
    join(a, manager)
    await desk.changes.until(lambda: desk.count(HeartbeatRequest) >= 3)
    joined, beat = desk.messages[0], desk.messages[1]
    assert isinstance(joined, JoinRequest)
    assert (joined.peer, joined.role, joined.url, joined.cluster) == (a.info, Role.DECODE, "http://x", "c")
    assert isinstance(beat, HeartbeatRequest)
    assert beat.load.num_running == 3
    await asyncio.to_thread(a.close)
    last = desk.messages[-1]
    assert isinstance(last, LeaveRequest)
    assert (last.instance, last.incarnation) == (a.info.instance, a.info.incarnation)


async def test_a_forgotten_pool_joins_again(a: MemPool, desk: ManagerDesk, manager: RpcServer[object]) -> None:
    join(a, manager)
    await desk.changes.until(lambda: desk.count(HeartbeatRequest) >= 1)
    desk.known = False
    await desk.changes.until(lambda: desk.count(JoinRequest) == 2)


async def test_what_a_dead_instance_holds_is_freed(
    a: MemPool, b: MemPool, desk: ManagerDesk, manager: RpcServer[object]
) -> None:
    peer = await asyncio.to_thread(b.connect, a.info.endpoint)
    await asyncio.to_thread(lambda: b.alloc_mem(3, on=peer))
    assert a.stats().num_transfers_open == 1
    desk.dead = (DeadInstance(instance=b.info.instance, incarnation=b.info.incarnation),)
    join(a, manager)
    await desk.changes.until(lambda: desk.count(HeartbeatRequest) >= 2)
    assert a.stats().num_transfers_open == 0


async def test_reports_arrive_in_order(a: MemPool, desk: ManagerDesk, manager: RpcServer[object]) -> None:
    join(a, manager)
    for number in range(20):
        a.report(report(number))
    await desk.changes.until(lambda: desk.count(ReportRequest) == 20)
    sent = [message.report.request for message in desk.messages if isinstance(message, ReportRequest)]
    assert sent == [str(number) for number in range(20)]


async def test_reports_wait_for_a_manager_and_the_oldest_are_dropped(a: MemPool) -> None:
    a.membership.join("tcp://127.0.0.1:9", cluster="c", role=Role.DECODE, url="", load=Load)
    for number in range(1030):
        a.report(report(number))
    assert a.stats().num_reports_dropped == 6


async def test_what_is_queued_is_sent_before_the_goodbye(
    a: MemPool, desk: ManagerDesk, manager: RpcServer[object]
) -> None:
    join(a, manager)
    await desk.changes.until(lambda: desk.count(HeartbeatRequest) >= 1)
    for number in range(5):
        a.report(report(number))
    await asyncio.to_thread(a.close)
    arrived = {message.report.request for message in desk.messages if isinstance(message, ReportRequest)}
    assert arrived == {RequestId(str(number)) for number in range(5)}
    assert isinstance(desk.messages[-1], LeaveRequest)


async def test_a_pool_that_never_joined_takes_reports_without_harm(a: MemPool) -> None:
    a.report(report(1))
    assert a.stats().num_reports_dropped == 0


async def test_one_that_was_taken_for_dead_is_told_once_and_joins_no_more(
    desk: ManagerDesk, manager: RpcServer[object]
) -> None:
    fenced = asyncio.Event()
    loop = asyncio.get_running_loop()
    with MemPool(instance="a", block_size=4, block_bytes=64, dram_bytes=1024) as pool:
        pool.membership.join(
            manager.endpoint,
            cluster="c",
            role=Role.DECODE,
            url="",
            load=Load,
            fenced=lambda: loop.call_soon_threadsafe(fenced.set),
        )
        await desk.changes.until(lambda: desk.count(HeartbeatRequest) >= 1)
        desk.is_fenced, desk.known = True, False
        await asyncio.wait_for(fenced.wait(), 10)
        told = desk.count(JoinRequest)
    assert desk.count(JoinRequest) == told == 2

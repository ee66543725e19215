"""The cluster manager over real sockets and real child processes."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from children import alive, free_port, leaving_nothing, processes, serving, spec, until
from tests.fakes.launching import no_restarts

from memserve.cluster.view import ClusterView, InstanceState
from memserve.core.clock import Clock, ManualClock, SystemClock
from memserve.core.enums import Phase, Role
from memserve.core.errors import ConfigError, DeadlineExceeded, IdentityMismatch, LeaseLost
from memserve.core.ids import Epoch, Incarnation, InstanceId, RequestId
from memserve.manager.manager import ClusterManager
from memserve.rpc.channel import RpcClient
from memserve.security.secret import ClusterSecret
from memserve.wire.identity import KvIdentity
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
    MemberReply,
    MemberRequest,
    PeerInfo,
    ReportRequest,
    RequestReport,
    WelcomeReply,
    WelcomeRequest,
)

IDENTITY = KvIdentity(model="m", dtype="f", engine="e", backend="b", block_size=32, block_bytes=64, num_layers=1)
A = InstanceId("colocated-0")
REPORT = RequestReport(
    request=RequestId("r"),
    instance=A,
    phase=Phase.WHOLE,
    prompt_tokens=10,
    hbm_tokens=0,
    dram_tokens=4,
    received_tokens=0,
    computed_tokens=6,
    output_tokens=2,
)


class Told:
    """What the manager told its owner."""

    def __init__(self) -> None:
        self.views: list[ClusterView] = []
        self.dead: list[DeadInstance] = []
        self.reports: list[RequestReport] = []

    def change(self, view: ClusterView, dead: tuple[DeadInstance, ...]) -> None:
        self.views.append(view)
        self.dead.extend(dead)


@pytest.fixture
def told() -> Iterator[Told]:
    return Told()


def new_manager(
    told: Told, clock: Clock | None = None, secret: ClusterSecret | None = None, **times: float
) -> ClusterManager:
    return ClusterManager(
        cluster="test",
        bind="127.0.0.1",
        clock=clock or SystemClock(),
        on_report=told.reports.append,
        on_change=told.change,
        launcher=no_restarts,
        secret=secret,
        **times,  # type: ignore[arg-type]
    )


@pytest.fixture
async def manager(told: Told) -> AsyncIterator[ClusterManager]:
    manager = ClusterManager(
        cluster="test",
        bind="127.0.0.1",
        clock=SystemClock(),
        on_report=told.reports.append,
        on_change=told.change,
        launcher=no_restarts,
    )
    await manager.start()
    yield manager
    await manager.stop()


@pytest.fixture
async def client(manager: ClusterManager) -> AsyncIterator[RpcClient[ClusterMessage]]:
    client: RpcClient[ClusterMessage] = RpcClient(manager.endpoint, ClusterMessage)
    yield client
    await client.close()


class Server:
    """A server whose /health answers with `status`."""

    def __init__(self) -> None:
        self.status = 200
        self.asked = 0
        self.url = ""

    async def health(self, _request: web.Request) -> web.Response:
        self.asked += 1
        return web.Response(status=self.status)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.router.add_get("/health", server.health)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    server.url = f"http://127.0.0.1:{port}"
    yield server
    await runner.cleanup()


def join_request(
    name: InstanceId = A, *, url: str = "", incarnation: int = 1, identity: KvIdentity = IDENTITY, cluster: str = "test"
) -> JoinRequest:
    peer = PeerInfo(
        instance=name, incarnation=Incarnation(incarnation), endpoint="tcp://127.0.0.1:9", identity=identity
    )
    return JoinRequest(cluster=cluster, peer=peer, role=Role.COLOCATED, url=url, pid=1)


def states(manager: ClusterManager) -> dict[str, InstanceState]:
    return {i.instance: i.state for i in manager.view.instances}


@asynccontextmanager
async def managing(told: Told, clock: Clock) -> AsyncIterator[tuple[ClusterManager, RpcClient[ClusterMessage]]]:
    """A manager on this clock, and a client of it."""
    manager = ClusterManager(
        cluster="test",
        bind="127.0.0.1",
        clock=clock,
        on_report=told.reports.append,
        on_change=told.change,
        launcher=no_restarts,
    )
    await manager.start()
    client: RpcClient[ClusterMessage] = RpcClient(manager.endpoint, ClusterMessage)
    try:
        yield manager, client
    finally:
        await client.close()
        await manager.stop()


async def test_a_joined_instance_is_active_once_its_server_answers(
    manager: ClusterManager, client: RpcClient[ClusterMessage], server: Server
) -> None:
    server.status = 503
    assert await client.call(join_request(url=server.url), deadline_s=5) == JoinReply(epoch=Epoch(1), heartbeat_s=1.0)
    await until(lambda: server.asked >= 2, "the server was asked twice")
    assert states(manager) == {A: InstanceState.JOINING}
    server.status = 200
    await manager.wait_ready(1, deadline_s=10)
    assert states(manager) == {A: InstanceState.ACTIVE}


async def test_with_a_secret_an_instance_whose_server_speaks_plain_http_gets_no_requests(
    told: Told, server: Server
) -> None:
    secret = ClusterSecret(b"s" * 32)
    manager = new_manager(told, secret=secret)
    await manager.start()
    client: RpcClient[ClusterMessage] = RpcClient(manager.endpoint, ClusterMessage, secret=secret)
    await client.call(join_request(url=server.url), deadline_s=5)
    with pytest.raises(ConfigError, match="speaks plain HTTP, in a cluster with a secret: start it with memserve inst"):
        await manager.wait_ready(1, 20)
    assert states(manager) == {A: InstanceState.JOINING}
    await client.close()
    await manager.stop()


async def test_a_failed_request_takes_an_instance_out_until_its_server_answers_again(
    manager: ClusterManager, client: RpcClient[ClusterMessage], server: Server
) -> None:
    await client.call(join_request(url=server.url), deadline_s=5)
    await manager.wait_ready(1, deadline_s=10)
    server.status = 503
    manager.request_failed(A, Incarnation(1), "connection refused")
    assert manager.view.active() == ()
    server.status = 200
    await manager.wait_ready(1, deadline_s=10)


async def test_an_instance_of_another_model_is_refused_with_the_fields(
    manager: ClusterManager, client: RpcClient[ClusterMessage]
) -> None:
    await client.call(join_request(), deadline_s=5)
    other = msgspec.structs.replace(IDENTITY, dtype="g")
    with pytest.raises(IdentityMismatch, match="dtype: 'g' here, 'f' there"):
        await client.call(join_request(InstanceId("colocated-1"), identity=other), deadline_s=5)
    assert list(states(manager)) == [A]


async def test_an_instance_of_another_cluster_is_refused(client: RpcClient[ClusterMessage]) -> None:
    with pytest.raises(ConfigError, match='cluster "elsewhere", but this is "test"'):
        await client.call(join_request(cluster="elsewhere"), deadline_s=5)


async def test_a_heartbeat_tells_the_load_and_hears_of_the_dead(
    manager: ClusterManager, client: RpcClient[ClusterMessage]
) -> None:
    other = InstanceId("colocated-1")
    await client.call(join_request(), deadline_s=5)
    await client.call(join_request(other), deadline_s=5)
    await client.call(LeaveRequest(instance=other, incarnation=Incarnation(1)), deadline_s=5)
    beat = HeartbeatRequest(instance=A, incarnation=Incarnation(1), load=Load(num_running=3))
    reply = await client.call(beat, deadline_s=5)
    assert isinstance(reply, HeartbeatReply)
    assert (reply.known, reply.dead) == (True, (DeadInstance(instance=other, incarnation=Incarnation(1)),))
    assert manager.view.instances[0].load.num_running == 3


async def test_a_heartbeat_hears_of_memory_instances_but_a_memory_instance_does_not(
    manager: ClusterManager, client: RpcClient[ClusterMessage]
) -> None:
    memory = msgspec.structs.replace(join_request(InstanceId("memory-0")), role=Role.MEMORY)
    await client.call(join_request(url="http://127.0.0.1:9"), deadline_s=5)
    await client.call(memory, deadline_s=5)
    await until(lambda: manager.view.active(Role.MEMORY), "the memory instance is active")
    for asks, hears in ((A, (memory.peer,)), (memory.peer.instance, ())):
        beat = HeartbeatRequest(instance=asks, incarnation=Incarnation(1), load=Load())
        reply = await client.call(beat, deadline_s=5)
        assert isinstance(reply, HeartbeatReply)
        assert reply.memory == hears


async def test_who_wants_to_come_is_told_what_to_be_like(client: RpcClient[ClusterMessage]) -> None:
    assert await client.call(WelcomeRequest(), deadline_s=5) == WelcomeReply(cluster="test", config=b"{}")
    await client.call(join_request(), deadline_s=5)
    assert await client.call(WelcomeRequest(), deadline_s=5) == WelcomeReply(
        cluster="test", config=b"{}", identity=IDENTITY
    )


async def test_an_unknown_incarnation_is_asked_to_join_again(client: RpcClient[ClusterMessage]) -> None:
    reply = await client.call(HeartbeatRequest(instance=A, incarnation=Incarnation(9), load=Load()), deadline_s=5)
    assert isinstance(reply, HeartbeatReply)
    assert not reply.known


async def test_one_that_was_started_in_the_future_is_refused_because_nobody_could_replace_it(
    manager: ClusterManager, client: RpcClient[ClusterMessage]
) -> None:
    tomorrow = time.time_ns() + 86_400 * 10**9
    with pytest.raises(ConfigError, match=r"colocated-0 says that it was started 86\d+ s from now: set the clocks"):
        await client.call(join_request(incarnation=tomorrow), deadline_s=5)
    assert states(manager) == {}


async def test_heartbeats_of_an_earlier_and_of_a_later_life_change_nothing(
    manager: ClusterManager, client: RpcClient[ClusterMessage]
) -> None:
    await client.call(join_request(incarnation=5), deadline_s=5)
    before = manager.view
    for incarnation in (4, 6):
        beat = HeartbeatRequest(instance=A, incarnation=Incarnation(incarnation), load=Load(num_running=9))
        reply = await client.call(beat, deadline_s=5)
        assert isinstance(reply, HeartbeatReply)
        assert (reply.known, reply.role, reply.dead) == (False, None, ())
    assert manager.view.instances == before.instances


async def test_a_refusal_is_logged_once_and_told_to_whoever_runs_the_instance(
    client: RpcClient[ClusterMessage], caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        with pytest.raises(ConfigError):
            await client.call(join_request(cluster="elsewhere"), deadline_s=5)
    assert caplog.text.count("is not taken into the cluster") == 1
    reply = await client.call(MemberRequest(instance=A), deadline_s=5)
    assert isinstance(reply, MemberReply)
    assert (reply.state, reply.dismissed) == ("", False)
    assert 'wants to join cluster "elsewhere"' in reply.refusal
    await client.call(join_request(), deadline_s=5)
    reply = await client.call(MemberRequest(instance=A), deadline_s=5)
    assert isinstance(reply, MemberReply)
    assert reply.refusal == ""


async def test_one_that_is_dismissed_hears_of_it_with_its_next_heartbeat(
    manager: ClusterManager, client: RpcClient[ClusterMessage]
) -> None:
    await client.call(join_request(), deadline_s=5)
    await manager.dismiss(A)
    reply = await client.call(HeartbeatRequest(instance=A, incarnation=Incarnation(1), load=Load()), deadline_s=5)
    assert isinstance(reply, HeartbeatReply)
    assert reply.dismissed
    asked = await client.call(MemberRequest(instance=A), deadline_s=5)
    assert isinstance(asked, MemberReply)
    assert asked.dismissed


async def test_whoever_is_about_to_start_an_instance_is_told_what_it_has_to_be_like(
    client: RpcClient[ClusterMessage],
) -> None:
    assert await client.call(WelcomeRequest(), deadline_s=5) == WelcomeReply(cluster="test", config=b"{}")


async def test_reports_come_through(client: RpcClient[ClusterMessage], told: Told) -> None:
    assert await client.call(ReportRequest(report=REPORT), deadline_s=5) == AckReply()
    assert told.reports == [REPORT]


async def test_a_second_process_under_a_living_name_is_refused_and_replaces_one_that_is_silent(told: Told) -> None:
    clock = ManualClock()
    async with managing(told, clock) as (_manager, client):
        await client.call(join_request(incarnation=1), deadline_s=5)
        with pytest.raises(ConfigError, match="another process is alive as colocated-0"):
            await client.call(join_request(incarnation=2), deadline_s=5)
        present = await client.call(MemberRequest(instance=A), deadline_s=5)
        assert isinstance(present, MemberReply)
        assert present.refusal == "", "whoever runs the first one hears of no refusal"
        assert told.dead == []
        for _ in range(30):  # in steps that a running clock could take
            clock.advance(0.2)
        await client.call(join_request(incarnation=2), deadline_s=5)
        assert told.dead == [DeadInstance(instance=A, incarnation=Incarnation(1))]


async def test_silence_is_noticed(told: Told) -> None:
    clock = ManualClock()
    async with managing(told, clock) as (manager, client):
        await client.call(join_request(), deadline_s=5)
        await manager.wait_ready(1, deadline_s=5)
        for _ in range(30):  # in steps that a running clock could take
            clock.advance(0.2)
        await until(lambda: states(manager) == {A: InstanceState.SUSPECT}, "the silent instance is suspect")


async def test_a_life_that_was_taken_for_dead_is_sent_away_and_its_supervisor_may_start_the_next(told: Told) -> None:
    clock = ManualClock()
    async with managing(told, clock) as (manager, client):
        await client.call(join_request(), deadline_s=5)
        clock.advance(21.0)
        await until(lambda: states(manager) == {}, "the silent instance is out")
        with pytest.raises(LeaseLost, match="colocated-0 was not heard of for so long"):
            await client.call(join_request(), deadline_s=5)
        told_supervisor = await client.call(MemberRequest(instance=A), deadline_s=5)
        assert told_supervisor == MemberReply(state="", dismissed=False, refusal="")
        await client.call(join_request(incarnation=2), deadline_s=5)
        assert list(states(manager)) == [A]


async def test_children_join_and_serve_and_stop_leaves_none_of_them(
    manager: ClusterManager, tmp_path: Path, told: Told
) -> None:
    specs = [serving(tmp_path, name, manager.endpoint) for name in ("prefill-0", "decode-0")]
    await manager.launch(specs)
    await manager.wait_ready(2, deadline_s=30)
    assert {i.instance: i.role for i in manager.view.active()} == {"prefill-0": Role.PREFILL, "decode-0": Role.DECODE}
    pids = [pid for one in specs for pid in await processes(one)]
    async with leaving_nothing(pids), asyncio.timeout(10):
        await manager.stop()
        await manager.stop()
        await until(lambda: not alive(pids), "the children are gone")


async def test_a_killed_child_is_dead_at_once_and_its_end_is_told(
    manager: ClusterManager, tmp_path: Path, told: Told
) -> None:
    one = serving(tmp_path, "colocated-0", manager.endpoint)
    await manager.launch([one])
    await manager.wait_ready(1, deadline_s=30)
    os.kill((await processes(one))[0], signal.SIGKILL)
    await until(lambda: told.dead, "the death was told", deadline_s=3)
    assert manager.view.instances == ()


async def test_an_own_instance_that_is_declared_dead_is_killed(told: Told, tmp_path: Path) -> None:
    """It stands still, and its guard ends it, so that it can do nothing more as a member."""
    manager = new_manager(told, suspect_s=0.5, dead_s=2.0)
    await manager.start()
    one = serving(tmp_path, "colocated-0", manager.endpoint)
    try:
        await manager.launch([one])
        await manager.wait_ready(1, deadline_s=30)
        pids = await processes(one)
        os.kill(pids[0], signal.SIGSTOP)
        async with leaving_nothing(pids):
            await until(lambda: not alive(pids), "it was killed")
            assert told.dead[0].instance == one.instance
    finally:
        await manager.stop()


async def test_waiting_ends_with_the_reason_of_a_child_that_died(manager: ClusterManager, tmp_path: Path) -> None:
    await manager.launch([spec(tmp_path, say="ValueError: max_model_len 9000 is too long", exit_code=1)])
    with pytest.raises(ConfigError, match=r"colocated-0 ended: ValueError: max_model_len 9000 .*its log is .*\.log"):
        await manager.wait_ready(1, deadline_s=30)


async def test_waiting_too_long_tells_the_states_and_the_logs(manager: ClusterManager, tmp_path: Path) -> None:
    await manager.launch([spec(tmp_path)])
    with pytest.raises(DeadlineExceeded, match=r"0 of 1 instances are ready .*colocated-0 started, not joined.*\.log"):
        await manager.wait_ready(1, deadline_s=0.05)


async def test_after_a_standstill_of_the_manager_nobody_is_judged_by_it(
    told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    async with managing(told, clock) as (_manager, client):
        await client.call(join_request(), deadline_s=5)
        clock.advance(60)
        await until(lambda: "stood still for 59.5 s" in caplog.text, "the standstill was noticed")
        reply = await client.call(HeartbeatRequest(instance=A, incarnation=Incarnation(1), load=Load()), deadline_s=5)
        assert isinstance(reply, HeartbeatReply)
        assert reply.known


def test_the_guard_imports_nothing_heavy() -> None:
    heavy = "'numpy' in sys.modules or 'msgspec' in sys.modules or 'aiohttp' in sys.modules"
    argv = [sys.executable, "-c", f"import sys, memserve.manager.guard; sys.exit({heavy})"]
    assert subprocess.run(argv, check=False).returncode == 0

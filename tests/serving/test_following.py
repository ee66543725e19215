"""Worker 0 and one that follows it, over real control RPC in one process; the cluster is a script."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from memserve.cluster.view import ClusterView, InstanceState
from memserve.config import GatewaySettings, ServeConfig, TenantSettings
from memserve.core.clock import SystemClock
from memserve.core.enums import Phase, Role, TransferMode
from memserve.core.errors import ConfigError, DeadlineExceeded, SecretRefused
from memserve.core.ids import Incarnation, InstanceId, RequestId
from memserve.gateway.worker_messages import AppRequest, Books, Choices, WorkerMessage
from memserve.manager.machine import Machine
from memserve.rpc.channel import RpcClient
from memserve.security.https import ServerCertificate
from memserve.security.secret import ClusterSecret
from memserve.serving.routing import RoutingFacts
from memserve.serving.workers.follower import Follower, draining
from memserve.serving.workers.head import Head
from memserve.serving.workers.plan import WorkerPlan, handed, read_plan
from memserve.serving.workers.running import running_workers
from memserve.wire.messages import Load, RequestReport
from tests.fakes.waiting import Changes
from tests.gateway.rig import ScriptedCluster


def report(request: str) -> RequestReport:
    return RequestReport(
        request=RequestId(request), instance=InstanceId("c0"), phase=Phase.WHOLE, prompt_tokens=8, hbm_tokens=0,
        dram_tokens=0, received_tokens=0, computed_tokens=8, output_tokens=1,
    )  # fmt: skip


class Two:
    """Worker 0 of two, and worker 1."""

    def __init__(self) -> None:
        self.cluster = ScriptedCluster()
        self.cluster.add("c0", Role.COLOCATED, "http://c0")
        self.choices = Choices(policy="prompt-tree")
        self.own: list[str] = []
        self.others: list[str] = []
        self.chosen: list[Choices] = []
        self.in_flight = 0
        self.changes = Changes()
        self.head = Head(
            num_workers=2, choices=lambda: self.choices, own_report=lambda r: self.own.append(r.request), secret=None
        )
        self.follower: Follower
        self.client: RpcClient[WorkerMessage]
        self.worker_0 = AsyncExitStack()

    def books(self, view: ClusterView) -> Books:
        return Books(num_in_flight=self.in_flight, draining=draining(view, lambda _: self.in_flight))

    def choose(self, choices: Choices) -> None:
        self.chosen.append(choices)
        self.changes.happened()

    def take(self, told: RequestReport) -> None:
        self.others.append(told.request)
        self.changes.happened()

    async def until(self, condition: Callable[[], bool]) -> None:
        await self.changes.until(condition)


async def _hello(request: Request) -> PlainTextResponse:
    return PlainTextResponse(f"{request.method} {request.url.path} {(await request.body()).decode()}", status_code=201)


@asynccontextmanager
async def two() -> AsyncIterator[Two]:
    made = Two()
    app = Starlette(routes=[Route("/admin/hello", _hello, methods=["PUT"])])
    async with made.worker_0:
        await made.worker_0.enter_async_context(made.head.running(app, made.cluster))
        made.client = RpcClient(made.head.endpoint, WorkerMessage, secret=ClusterSecret(made.head.key))
        made.follower = Follower(
            made.client, worker=1, endpoint="", books=made.books, on_choices=made.choose, on_report=made.take
        )
        try:
            async with made.follower.running():
                made.follower.follow(lambda _: made.changes.happened())
                made.follower.is_serving = True
                await made.head.wait_serving(1)
                yield made
        finally:
            await made.client.close()


async def test_a_worker_has_the_view_from_the_first_and_each_newer_one() -> None:
    async with two() as both:
        assert both.follower.view == both.cluster.view
        both.cluster.add("c1", Role.COLOCATED, "http://c1")
        both.head.changed()
        await both.until(lambda: both.follower.view == both.cluster.view)


async def test_newer_loads_arrive_though_nobody_says_that_the_view_changed() -> None:
    async with two() as both:
        view = both.cluster.view
        busy = tuple(msgspec.structs.replace(i, load=Load(num_running=7)) for i in view.instances)
        both.cluster.view = msgspec.structs.replace(view, instances=busy)
        await both.until(lambda: both.follower.view.instances[0].load.num_running == 7)


async def test_a_report_goes_to_the_worker_whose_request_it_is_and_to_no_other() -> None:
    async with two() as both:
        for name in ("a-w0", "b-w1", "c", "d-w9"):
            both.head.ingest(report(name))
        await both.until(lambda: both.others == ["b-w1"])
        assert both.own == ["a-w0", "c", "d-w9"]


async def test_a_choice_has_arrived_when_it_was_waited_for() -> None:
    async with two() as both:
        both.choices = Choices(policy="least-load", transfer=TransferMode.BY_LAYER)
        await both.head.follow_choices()
        assert both.chosen[-1] == both.choices


async def test_a_fault_at_an_instance_is_told_to_the_manager() -> None:
    async with two() as both:
        both.follower.request_failed(InstanceId("c0"), Incarnation(1), "broken")
        await both.cluster.changes.until(lambda: both.cluster.faults == [("c0", "broken")])


async def test_what_a_worker_has_to_do_on_an_instance_that_drains_is_known_to_worker_0() -> None:
    async with two() as both:
        both.in_flight = 3
        both.cluster.set_state("c0", InstanceState.DRAINING)
        await both.head.follow_choices()
        assert both.head.num_in_flight(InstanceId("c0")) == 3
        assert both.head.books()[0].num_in_flight == both.head.states()[0].num_in_flight == 3
        both.head.ended(1)
        assert both.head.num_in_flight(InstanceId("c0")) == 0, "with the worker its requests have ended"


async def test_http_that_is_for_worker_0_is_answered_by_its_app() -> None:
    async with two() as both:
        reply = await both.follower.forward(AppRequest(method="PUT", path="/admin/hello", body=b"you"))
        assert (reply.status, reply.body) == (201, b"PUT /admin/hello you")


async def test_a_worker_changes_nothing_of_the_cluster_itself() -> None:
    async with two() as both:
        with pytest.raises(ConfigError, match="worker 1 only serves"):
            await both.follower.drain(InstanceId("c0"))


async def test_the_view_stays_when_worker_0_answers_no_more() -> None:
    async with two() as both:
        seen = both.follower.view
        await both.worker_0.aclose()
        with pytest.raises(DeadlineExceeded):
            await both.client.call(AppRequest(method="GET", path="/"), deadline_s=0.1)
        assert both.follower.view is seen


async def test_who_does_not_know_the_runs_key_is_not_talked_to() -> None:
    async with two() as both:
        guess = ClusterSecret(b"x" * 32)
        stranger: RpcClient[WorkerMessage] = RpcClient(both.head.endpoint, WorkerMessage, secret=guess)
        with pytest.raises(SecretRefused):
            await stranger.call(AppRequest(method="PUT", path="/admin/hello"), deadline_s=5)
        await stranger.close()


async def test_a_worker_that_ends_while_it_starts_is_told_with_the_reason_and_where_its_log_is(tmp_path: Path) -> None:
    made = Two()
    async with made.head.running(Starlette(), made.cluster):
        plan = WorkerPlan(
            worker=0,
            head=made.head.endpoint,
            key=made.head.key,
            config=ServeConfig(gateway=GatewaySettings(workers=2)),
            model_name="tiny",
            port=1,
            certificate=None,
            facts=RoutingFacts(block_size=4),
        )
        broken = msgspec.structs.replace(Machine.here(), python="/bin/false")
        workers = running_workers(made.head, plan, machine=broken, log_folder=tmp_path, clock=SystemClock())
        with pytest.raises(ConfigError, match=r"gateway-worker-1 ended: .* its log is .*gateway-worker-1\.log"):
            async with workers:
                pass


def test_a_plan_reaches_its_worker_with_keys_and_all() -> None:
    plan = WorkerPlan(
        worker=3,
        head="tcp://127.0.0.1:1",
        key=b"\x00\xff" * 16,
        config=ServeConfig(tenants=(TenantSettings(name="a", api_key="ka"),)),
        model_name="tiny",
        port=8000,
        certificate=ServerCertificate(certfile="c", keyfile="k"),
        facts=RoutingFacts(block_size=16),
    )
    with handed(plan) as ((told,), (fd,)):
        assert told == str(fd)
        assert read_plan(os.dup(fd)) == plan

"""One gateway as several processes: ids, bounds, what is forwarded, and one page of metrics for all."""

import socket
from typing import Any

import aiohttp
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from memserve.config import MAX_WORKERS, GatewaySettings
from memserve.core.errors import ConfigError, DeadlineExceeded
from memserve.core.ids import RequestId
from memserve.gateway import worker_front
from memserve.gateway.metrics import GatewayMetrics
from memserve.gateway.server import Sharing, running
from memserve.gateway.worker_front import WorkerFront
from memserve.gateway.worker_ids import ending_of, owner_of
from memserve.gateway.worker_messages import AppReply, AppRequest
from memserve.gateway.worker_metrics import labelled


@pytest.mark.parametrize("workers", [0, -1, MAX_WORKERS + 1, 10**6])
def test_a_number_of_workers_that_makes_no_sense_is_refused(workers: int) -> None:
    with pytest.raises(ConfigError, match=f"--workers {workers}: give the number of processes that serve, 1 to 64"):
        GatewaySettings(workers=workers).check()


def test_more_workers_than_an_instance_may_have_requests_are_refused() -> None:
    with pytest.raises(ConfigError, match="each worker has a part of that bound"):
        GatewaySettings(workers=3, max_requests_per_instance=2).check()


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_the_parts_of_all_workers_add_up_to_the_bounds_of_the_gateway(workers: int) -> None:
    whole = GatewaySettings(workers=workers, max_requests_per_instance=16, max_waiting=5, max_waiting_per_tenant=0)
    parts = [whole.part(worker) for worker in range(workers)]
    for name in ("max_requests_per_instance", "max_waiting", "max_waiting_per_tenant", "retry_reserve"):
        dealt = [getattr(part, name) for part in parts]
        assert sum(dealt) == getattr(whole, name)
        assert max(dealt) - min(dealt) <= 1
    assert min(part.max_requests_per_instance for part in parts) >= 1


@pytest.mark.parametrize(
    ("request_id", "owner"),
    [("a-w0", 0), ("a-w12", 12), ("a-w1-w3", 3), ("a-w1-more", None), ("a", None), ("a-w", None)],
)
def test_the_owner_of_a_request_is_the_last_thing_in_its_id(request_id: str, owner: int | None) -> None:
    assert owner_of(RequestId(request_id)) == owner
    assert owner_of(RequestId(request_id + ending_of(5))) == 5


async def test_a_port_is_shared_by_those_who_mean_to_and_by_nobody_else() -> None:
    async with running(Starlette(), sharing=Sharing.FIRST) as port:
        async with running(Starlette(), port=port, sharing=Sharing.JOINS) as same:
            assert same == port
        for sharing in (Sharing.FIRST, Sharing.ALONE):
            with pytest.raises(ConfigError, match=f"127.0.0.1:{port}"):
                async with running(Starlette(), port=port, sharing=sharing):
                    pass


async def test_a_worker_does_not_join_a_port_that_somebody_has_for_himself() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}"):
            async with running(Starlette(), port=port, sharing=Sharing.JOINS):
                pass


class Front:
    """A worker's front before an app that says its path, with a script for worker 0."""

    def __init__(self) -> None:
        self.forwarded: list[AppRequest] = []
        self.away = False

    async def forward(self, request: AppRequest) -> AppReply:
        if self.away:
            raise DeadlineExceeded("no answer")
        self.forwarded.append(request)
        return AppReply(status=409, headers=((b"content-type", b"text/plain"), (b"x-from", b"0")), body=b"not now")

    def app(self) -> WorkerFront:
        async def say(request: Request) -> PlainTextResponse:
            return PlainTextResponse(f"here {request.url.path}")

        return WorkerFront(
            Starlette(routes=[Route("/{path:path}", say, methods=["GET", "POST"])]), forward=self.forward
        )

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, str, str]:
        """Status, body, and who says so."""
        async with (
            running(self.app()) as port,
            aiohttp.ClientSession() as session,
            session.request(method, f"http://127.0.0.1:{port}{path}", **options) as answer,
        ):
            return answer.status, await answer.text(), answer.headers.get("x-from", "")


async def test_admin_and_metrics_go_to_worker_0_as_they_came_and_its_answer_comes_back() -> None:
    front = Front()
    answer = await front.ask("POST", "/admin/drain?x=1", data=b"body", headers={"authorization": "Bearer y"})
    assert answer == (409, "not now", "0")
    (request,) = front.forwarded
    assert (request.method, request.path, request.query, request.body) == ("POST", "/admin/drain", b"x=1", b"body")
    assert dict(request.headers)[b"authorization"] == b"Bearer y"
    assert (await front.ask("GET", "/metrics"))[0] == 409


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/administrator", "/"])
async def test_everything_else_is_answered_by_the_worker_itself(path: str) -> None:
    front = Front()
    assert await front.ask("GET", path) == (200, f"here {path}", "")
    assert front.forwarded == []


async def test_without_worker_0_the_answer_is_503_with_the_reason() -> None:
    front = Front()
    front.away = True
    status, text, _ = await front.ask("GET", "/admin/cluster")
    assert status == 503
    assert "worker 0 does not answer: no answer" in text


async def test_a_body_beyond_the_bound_is_not_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_front, "MAX_BODY_BYTES", 10)
    front = Front()
    status, text, _ = await front.ask("POST", "/admin/pins", data=b"12345678901")
    assert status == 413
    assert "longer than 10 bytes" in text
    assert front.forwarded == []


def test_what_each_worker_counts_is_told_with_its_number_and_adds_up() -> None:
    pages = {}
    for worker, count in ((0, 2), (1, 3)):
        metrics = GatewayMetrics()
        for _ in range(count):
            metrics.request_ended("/v1/completions", "200", seconds=0.1)
        pages[worker] = metrics.own()
    page = labelled(pages).decode().splitlines()
    assert 'memserve_gateway_requests_total{route="/v1/completions",status="200",worker="0"} 2.0' in page
    assert 'memserve_gateway_requests_total{route="/v1/completions",status="200",worker="1"} 3.0' in page
    assert 'memserve_gateway_request_seconds_count{route="/v1/completions",worker="1"} 3.0' in page
    assert page.count("# TYPE memserve_gateway_requests_total counter") == 1

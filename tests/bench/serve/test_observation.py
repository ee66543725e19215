"""Where prompts' tokens came from, as gateways, engines and proxies tell it."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from threading import Event, Thread

import aiohttp
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from memserve.bench.processes import cpu_seconds, give_lowest_priority, helper_seconds
from memserve.bench.serve.nixl_proxy import make_app
from memserve.bench.serve.player import Played, Player
from memserve.bench.serve.stack import MemserveStack, SplitStack
from memserve.core.clock import SystemClock
from memserve.core.errors import InstanceUnavailable
from memserve.gateway.server import running
from tests.fakes.engine import FakeEngine
from tests.gateway.rig import Rigs, serving


@asynccontextmanager
async def client(url: str, model: str = "tiny") -> AsyncIterator[Player]:
    async with aiohttp.ClientSession() as http:
        yield Player(url=url, model=model, special_ids=(1,), http=http, clock=SystemClock())


async def test_a_gateway_tells_of_each_request_what_its_instances_did() -> None:
    async with serving() as server, Rigs(server)(prefill=1, decode=1) as rig, client(rig.url) as player:
        answer = await player.ask("hello", max_tokens=4, request="one")
        stack = MemserveStack(url=rig.url, pids=(), http=rig.http)
        observed = await stack.observe([Played(request="one", session=0, turn=0, arrival_s=0.0, answer=answer)])

    assert len(answer.tokens) == 4
    assert (observed.hbm_tokens, observed.dram_tokens, observed.disk_tokens) == (3, 4, 0)
    assert observed.moved_bytes == 4096
    assert observed.cached == {"one": 7}


def metrics(hits: int, external: int, moved: int) -> str:
    names = ("vllm:prefix_cache_hits", "vllm:external_prefix_cache_hits")
    counters = "".join(
        f"# TYPE {name} counter\n{name}_total {value}.0\n" for name, value in zip(names, (hits, external), strict=True)
    )
    name = "vllm:nixl_bytes_transferred"
    histogram = f'{name}_bucket{{le="+Inf"}} 1.0\n{name}_count 1.0\n{name}_sum {moved}.0\n'
    return f"{counters}# TYPE {name} histogram\n{histogram}"


async def test_of_a_split_engine_hits_count_where_the_prompt_is_computed() -> None:
    told = {"p": metrics(10, 5, 0), "d": metrics(1000, 1000, 70)}

    def answer(name: str) -> Callable[[Request], PlainTextResponse]:
        return lambda _: PlainTextResponse(told[name])

    app = Starlette(routes=[Route(f"/{name}/metrics", answer(name)) for name in told])
    async with running(app) as port, aiohttp.ClientSession() as http:
        url = f"http://127.0.0.1:{port}"
        stack = SplitStack(url=url, pids=(), prefill=f"{url}/p", decode=f"{url}/d", http=http)
        await stack.begin()
        told |= {"p": metrics(25, 11, 0), "d": metrics(2000, 2000, 170)}
        observed = await stack.observe([])

    assert (observed.hbm_tokens, observed.dram_tokens, observed.moved_bytes) == (15, 6, 100)
    assert observed.cached is None


async def test_a_server_that_tells_nothing_is_named() -> None:
    async with running(Starlette()) as port, aiohttp.ClientSession() as http:
        url = f"http://127.0.0.1:{port}"
        with pytest.raises(InstanceUnavailable, match=r"/metrics answered 404"):
            await SplitStack(url=url, pids=(), prefill=url, decode=url, http=http).begin()


class NixlEngine:
    """Answers as vLLM with NixlConnector does: prefill with what decode needs, decode with what may be read back."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.got: list[dict[str, object]] = []

    async def complete(self, request: Request) -> JSONResponse:
        body = await request.json()
        self.got.append(body)
        tokens = [5, 6, 7][: body["max_tokens"]]
        choice = {"index": 0, "text": "abc"[: len(tokens)], "token_ids": tokens}
        left = {"from": self.name, "turn": len(self.got)}
        return JSONResponse({"choices": [choice], "usage": {"prompt_tokens": 9}, "kv_transfer_params": left})

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        app = Starlette(routes=[Route("/v1/completions", self.complete, methods=["POST"])])
        async with running(app) as port:
            yield f"http://127.0.0.1:{port}"


async def test_the_proxy_takes_what_a_turns_decode_left_to_the_next_turns_prefill() -> None:
    prefill, decode = NixlEngine("p"), NixlEngine("d")
    async with prefill.serving() as p, decode.serving() as d:
        app = make_app(prefill=p, decode=d)
        async with app.router.lifespan_context(app), running(app) as port, client(f"http://127.0.0.1:{port}") as player:
            answers = [await player.ask("x", max_tokens=3, request=f"r{n}", session="s") for n in range(2)]
            await player.ask("x", max_tokens=3, request="other", session="t")

    assert [(answer.text, answer.tokens, answer.prompt_tokens) for answer in answers] == [("abc", (5, 6, 7), 9)] * 2
    fresh = {"do_remote_decode": True, "do_remote_prefill": False}
    assert [body["kv_transfer_params"] for body in prefill.got] == [fresh, {"from": "d", "turn": 1}, fresh]
    assert [body["kv_transfer_params"] for body in decode.got] == [{"from": "p", "turn": n} for n in (1, 2, 3)]
    assert all("stream" not in body for body in (*prefill.got, *decode.got))


async def test_the_proxy_passes_on_that_an_engine_failed() -> None:
    engine = FakeEngine("a")
    async with running(engine.app) as backend:
        app = make_app(prefill=f"http://127.0.0.1:{backend}", decode="http://127.0.0.1:9")
        async with app.router.lifespan_context(app), running(app) as port, client(f"http://127.0.0.1:{port}") as player:
            with pytest.raises(InstanceUnavailable, match="the stream says"):
                await player.ask("x", max_tokens=3, request="r")


def test_cpu_time_of_a_family_is_the_sum_of_its_members() -> None:
    before = cpu_seconds([os.getpid()])
    sum(number * number for number in range(3_000_000))

    assert cpu_seconds([os.getpid()]) > before


def test_the_thread_in_which_a_server_works_is_no_helper() -> None:
    done = Event()
    helper = Thread(target=done.wait)
    helper.start()
    try:
        helpers = helper_seconds([os.getpid()])
    finally:
        done.set()
        helper.join()

    assert helper.native_id in helpers
    assert os.getpid() not in helpers


def test_a_thread_that_has_ended_is_passed_over() -> None:
    assert give_lowest_priority([2**22 + 1]) == 0

"""The requests that measure, against a server whose time is a clock of the test's own."""

import asyncio
from collections.abc import AsyncIterator
from random import Random

import aiohttp
import pytest
from aiohttp import web

from memserve.calibration.prober import Prober
from memserve.core.clock import ManualClock
from memserve.core.errors import InstanceUnavailable

PREFILL_S, STEP_S = 0.5, 0.125


class Engine:
    """Costs PREFILL_S a prompt and STEP_S a token of a stream, on the clock; finds four tokens cached."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.status = 200
        self.num_resets = 0

    async def completions(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.clock.advance(PREFILL_S)
        if not body.get("stream"):
            usage = {"prompt_tokens": len(body["prompt"]), "prompt_tokens_details": {"cached_tokens": 4}}
            return web.json_response({"usage": usage}, status=self.status)
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(body["max_tokens"]):
            await response.write(b'data: {"id": "cmpl-1"}\n\n')
            await asyncio.sleep(0.005)  # the client reads the line before the clock moves on
            self.clock.advance(STEP_S)
        await response.write(b"data: [DONE]\n\n")
        return response

    async def metrics(self, _: web.Request) -> web.Response:
        return web.Response(text='vllm:cache_config_info{block_size="32",num_gpu_blocks="100"} 1.0\n')

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "m", "max_model_len": 2048}]})

    async def reset(self, _: web.Request) -> web.Response:
        self.num_resets += 1
        return web.Response()


@pytest.fixture
def engine() -> Engine:
    return Engine(ManualClock())


@pytest.fixture
async def prober(engine: Engine) -> AsyncIterator[Prober]:
    app = web.Application()
    app.router.add_post("/v1/completions", engine.completions)
    app.router.add_get("/v1/models", engine.models)
    app.router.add_get("/metrics", engine.metrics)
    app.router.add_post("/reset_prefix_cache", engine.reset)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0]
    async with aiohttp.ClientSession() as http:
        yield Prober(url=f"http://{host}:{port}", model="m", http=http, clock=engine.clock, random=Random(1))
    await runner.cleanup()


async def test_a_prefill_is_timed_and_says_what_was_cached(prober: Prober) -> None:
    found = await prober.prefill(prober.prompt(10))
    assert (found.prompt_tokens, found.cached_tokens, found.seconds) == (10, 4, PREFILL_S)


async def test_a_decode_step_is_the_time_between_tokens_not_the_wait_for_the_first(prober: Prober) -> None:
    assert await prober.decode_step([prober.prompt(3)], num_tokens=5) == pytest.approx(STEP_S)


async def test_room_and_longest_request_are_what_the_engine_says(prober: Prober) -> None:
    assert (await prober.kv_capacity_tokens(), await prober.max_tokens()) == (3200, 2048)


async def test_emptying_the_cache_reaches_the_engine(prober: Prober, engine: Engine) -> None:
    await prober.forget_cache()
    assert engine.num_resets == 1


async def test_a_refusal_is_told_with_its_status_and_words(prober: Prober, engine: Engine) -> None:
    engine.status = 503
    with pytest.raises(InstanceUnavailable, match="503"):
        await prober.prefill([1])


def test_prompts_of_one_seed_differ_from_each_other_and_are_the_same_next_time() -> None:
    first, again = (
        Prober(url="", model="", http=None, clock=ManualClock(), random=Random(7))  # type: ignore[arg-type]
        for _ in range(2)
    )
    drawn = first.prompt(50)
    assert drawn == again.prompt(50)
    assert first.prompt(50) != drawn

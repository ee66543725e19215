"""Requests to one engine's own server, timed at the client: prefills, and decodes side by side.

Owns the HTTP calls and their deadlines; decides neither what is asked nor what it means. Prompts are token ids
drawn from a seeded generator, so nothing of an earlier run can be cached.
"""

import asyncio
from collections.abc import Sequence
from random import Random

import aiohttp
import msgspec
from prometheus_client.parser import text_string_to_metric_families

from memserve.core.clock import Clock
from memserve.core.errors import InstanceUnavailable

REQUEST_DEADLINE_S = 120.0
_LOWEST_TOKEN, _HIGHEST_TOKEN = 1000, 20_000
"""Ordinary words in every vocabulary of that size; none of the special tokens at either end."""


class Prefilled(msgspec.Struct, frozen=True, kw_only=True):
    prompt_tokens: int
    cached_tokens: int
    """What the engine says it did not compute."""
    seconds: float
    """From the call to the whole answer of one token."""


class _Details(msgspec.Struct, frozen=True):
    cached_tokens: int = 0


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    prompt_tokens_details: _Details | None = None


class _Answer(msgspec.Struct, frozen=True):
    usage: _Usage


class _Model(msgspec.Struct, frozen=True):
    max_model_len: int


class _Models(msgspec.Struct, frozen=True):
    data: tuple[_Model, ...]


class Prober:
    """A client of the server at `url`; `http` belongs to the caller. Raises InstanceUnavailable on every fault."""

    def __init__(self, *, url: str, model: str, http: aiohttp.ClientSession, clock: Clock, random: Random) -> None:
        self._url = url
        self._model = model
        self._http = http
        self._clock = clock
        self._random = random

    def prompt(self, num_tokens: int) -> list[int]:
        return [self._random.randint(_LOWEST_TOKEN, _HIGHEST_TOKEN) for _ in range(num_tokens)]

    async def max_tokens(self) -> int:
        """Longest prompt and answer together."""
        return msgspec.json.decode(await self._call("GET", "/v1/models"), type=_Models).data[0].max_model_len

    async def kv_capacity_tokens(self) -> int:
        """Tokens whose KV the engine itself has room for."""
        text = (await self._call("GET", "/metrics")).decode()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == "vllm:cache_config_info":
                    return int(sample.labels["num_gpu_blocks"]) * int(sample.labels["block_size"])
        raise InstanceUnavailable(f"{self._url}/metrics names no vllm:cache_config_info: is this vLLM?")

    async def prefill(self, prompt: Sequence[int]) -> Prefilled:
        started = self._clock.now()
        body = await self._call("POST", "/v1/completions", self._request(prompt, max_tokens=1))
        seconds = self._clock.now() - started
        usage = msgspec.json.decode(body, type=_Answer).usage
        cached = usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else 0
        return Prefilled(prompt_tokens=usage.prompt_tokens, cached_tokens=cached, seconds=seconds)

    async def decode_step(self, prompts: Sequence[Sequence[int]], *, num_tokens: int) -> float:
        """Mean seconds of a step while all of them are decoding; their prompts should be cached."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._arrivals(prompt, num_tokens)) for prompt in prompts]
        arrivals = [task.result() for task in tasks]
        begin, end = max(times[0] for times in arrivals), min(times[-1] for times in arrivals)
        inside = [at for at in arrivals[0] if begin <= at <= end]
        if len(inside) < 2:
            raise InstanceUnavailable(f"{len(prompts)} answers of {num_tokens} tokens never ran side by side")
        return (inside[-1] - inside[0]) / (len(inside) - 1)

    async def forget_cache(self) -> None:
        """The engine's own prefix cache is emptied; the pool keeps what it has."""
        await self._call("POST", "/reset_prefix_cache")

    async def _arrivals(self, prompt: Sequence[int], num_tokens: int) -> list[float]:
        """When each token came."""
        request = self._request(prompt, max_tokens=num_tokens) | {"stream": True, "ignore_eos": True}
        try:
            async with (
                asyncio.timeout(REQUEST_DEADLINE_S),
                self._http.post(f"{self._url}/v1/completions", json=request) as answer,
            ):
                times = [self._clock.now() async for line in answer.content if line.startswith(b'data: {"id"')]
                if answer.status != 200 or not times:
                    raise InstanceUnavailable(f"{self._url} answered {answer.status} and {len(times)} tokens")
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _unavailable(self._url, error) from error
        return times

    def _request(self, prompt: Sequence[int], *, max_tokens: int) -> dict[str, object]:
        return {"model": self._model, "prompt": list(prompt), "max_tokens": max_tokens, "temperature": 0}

    async def _call(self, method: str, path: str, json: object = None) -> bytes:
        try:
            async with (
                asyncio.timeout(REQUEST_DEADLINE_S),
                self._http.request(method, f"{self._url}{path}", json=json) as answer,
            ):
                body = await answer.read()
                if answer.status != 200:
                    text = body[:300].decode("utf-8", "replace")
                    raise InstanceUnavailable(f"{self._url}{path} answered {answer.status}: {text}")
                return body
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _unavailable(self._url, error) from error


def _unavailable(url: str, error: Exception) -> InstanceUnavailable:
    return InstanceUnavailable(f"{url} did not answer a measurement: {error or type(error).__name__}")

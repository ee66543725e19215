"""A client of one gateway: prompts of token ids, streamed answers timed here, and what the instances report of them.

Owns the HTTP calls and their deadlines. Prompts are drawn from a seeded generator, so that nothing of an earlier
measurement is cached unless the study wants it.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count
from random import Random

import aiohttp
import msgspec

from memserve.core.clock import Clock
from memserve.core.enums import TransferMode
from memserve.core.errors import InstanceUnavailable
from memserve.wire.messages import RequestReport

_REQUEST_DEADLINE_S = 180.0
_ADMIN_DEADLINE_S = 5.0
_REPORT_WAIT_S = 5.0
_POLL_S = 0.05
_LOWEST_TOKEN, _HIGHEST_TOKEN = 1000, 20_000
"""Ordinary words in every vocabulary of that size; none of the special tokens at either end."""


class Timed(msgspec.Struct, frozen=True, kw_only=True):
    """One streamed answer as its client saw it."""

    request: str
    ttft_s: float
    """From the call to the first token."""
    gap_s: float
    """From the first token to the second one; 0 when there was one token."""
    jct_s: float
    """From the call to the end of the stream."""


class _Record(msgspec.Struct, frozen=True):
    reports: tuple[RequestReport, ...] = ()


class _Choice(msgspec.Struct, frozen=True):
    text: str = ""
    token_ids: tuple[int, ...] | None = None
    """A token may be half a character, so that it brings no text."""


class _Event(msgspec.Struct, frozen=True):
    choices: tuple[_Choice, ...] = ()
    error: msgspec.Raw = msgspec.Raw()


class StudyClient:
    """Raises InstanceUnavailable, with the server's words, on every fault; `http` belongs to the caller."""

    def __init__(self, *, url: str, model: str, http: aiohttp.ClientSession, clock: Clock, seed: int) -> None:
        self._url = url
        self._model = model
        self._http = http
        self._clock = clock
        self._random = Random(seed)  # noqa: S311 - draws prompts, keeps no secret
        self._numbers = count(1)

    def prompt(self, num_tokens: int) -> list[int]:
        """New: it shares nothing with any other one."""
        return [self._random.randint(_LOWEST_TOKEN, _HIGHEST_TOKEN) for _ in range(num_tokens)]

    async def ask(self, prompt: Sequence[int], *, num_tokens: int = 1, session: str = "") -> Timed:
        """One greedy answer of exactly so many tokens."""
        request = f"study-{next(self._numbers)}"
        body = {
            "model": self._model, "prompt": list(prompt), "max_tokens": num_tokens, "ignore_eos": True,
            "temperature": 0, "stream": True, "return_token_ids": True,
        }  # fmt: skip
        headers = {"X-Request-Id": request} | ({"X-Session-Id": session} if session else {})
        started = self._clock.now()
        arrived = [self._clock.now() async for _ in self._tokens(body, headers)]
        ended = self._clock.now()
        if not arrived:
            raise InstanceUnavailable(f"{self._url}: the stream of request {request} brought no token")
        gap_s = arrived[1] - arrived[0] if len(arrived) > 1 else 0.0
        return Timed(request=request, ttft_s=arrived[0] - started, gap_s=gap_s, jct_s=ended - started)

    async def ask_together(self, prompts: Sequence[Sequence[int]], *, num_tokens: int) -> list[Timed]:
        """All at once."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.ask(prompt, num_tokens=num_tokens)) for prompt in prompts]
        return [task.result() for task in tasks]

    async def report(self, request: str) -> RequestReport | None:
        """Of the instance that computed the prompt; None when it did not come within 5 s."""
        deadline = self._clock.now() + _REPORT_WAIT_S
        while True:
            body = await self._admin("GET", f"requests/{request}")
            reports = msgspec.json.decode(body, type=_Record).reports
            if reports or self._clock.now() >= deadline:
                return reports[0] if reports else None
            await asyncio.sleep(_POLL_S)

    async def use_transfer(self, mode: TransferMode) -> None:
        """From the next request on."""
        await self._admin("PUT", "transfer", {"transfer": mode})

    async def use_policy(self, policy: str) -> None:
        """From the next request on."""
        await self._admin("PUT", "policy", {"policy": policy})

    async def _tokens(self, body: dict[str, object], headers: dict[str, str]) -> AsyncIterator[None]:
        url = f"{self._url}/v1/completions"
        async with self._called("POST", url, _REQUEST_DEADLINE_S, json=body, headers=headers) as answer:
            async for line in answer.content:
                if not line.startswith(b"data: {"):
                    continue
                event = msgspec.json.decode(line[6:], type=_Event)
                if bytes(event.error):
                    raise InstanceUnavailable(f"{url} broke off: {bytes(event.error).decode(errors='replace')}")
                if event.choices and (event.choices[0].text or event.choices[0].token_ids):
                    yield

    async def _admin(self, method: str, path: str, body: object = None) -> bytes:
        async with self._called(method, f"{self._url}/admin/{path}", _ADMIN_DEADLINE_S, json=body) as answer:
            return await answer.read()

    @asynccontextmanager
    async def _called(
        self, method: str, url: str, deadline_s: float, *, json: object, headers: dict[str, str] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            async with (
                asyncio.timeout(deadline_s),
                self._http.request(method, url, json=json, headers=headers) as answer,
            ):
                if answer.status != 200:
                    text = (await answer.read())[:300].decode("utf-8", "replace")
                    raise InstanceUnavailable(f"{url} answered {answer.status}: {text}")
                yield answer
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError) as error:
            raise InstanceUnavailable(f"{url} did not answer a study: {error or type(error).__name__}") from error

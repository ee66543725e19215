"""Clients: steady, mixed requests whose right answers are known, and what became of each.

A request fails when its client gets no whole answer: an error, a stream that breaks off, or nothing for two minutes.
Where there was no gateway at some moment while it ran (from the signal that ends one until the next one serves), its
client asks again, as any client does whose connection is lost; that counts as retried, and the answer has to be right.
No other request is asked twice: at any other time an instance was left to serve it, as never all are hurt at once.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import aiohttp
import msgspec

from tests.chaos.cluster import ChaosCluster

_REQUEST_S = 120.0
_LEAVE_SHARE = 0.03


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One request of a conversation, with its answer in a run without faults."""

    prompt: list[int]
    tokens: list[int]
    text: str


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a request: right, wrong, failed, or left by its client."""

    verdict: str
    start: float
    end: float
    why: str = ""
    num_retries: int = 0
    num_resumes: int = 0


class Answer(msgspec.Struct, kw_only=True):
    """What a client has got so far."""

    tokens: list[int] = []
    text: str = ""
    is_whole: bool = False
    fault: str = ""


class Load:
    """So many clients, each with one conversation after the other, until `stop`."""

    def __init__(
        self,
        cluster: ChaosCluster,
        *,
        conversation: Callable[[Random], Sequence[Turn]],
        num_clients: int,
        seed: int,
        model: str,
    ) -> None:
        self._cluster = cluster
        self._conversation = conversation
        self._num_clients = num_clients
        self._seed = seed
        self._model = model
        self._stopping = False
        self._number = 0
        self.ended: list[Ended] = []
        self._http: aiohttp.ClientSession | None = None

    async def run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=_REQUEST_S)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as self._http:
            await asyncio.gather(*map(self._client, range(self._num_clients)))

    def stop(self) -> None:
        """No new requests; `run` returns when those there have ended."""
        self._stopping = True

    async def _client(self, number: int) -> None:
        random = Random(f"{self._seed}/{number}")
        while not self._stopping:
            for turn in self._conversation(random):
                if self._stopping:
                    return
                self.ended.append(await self._ask(turn, random))

    async def _ask(self, turn: Turn, random: Random) -> Ended:
        body = {
            "model": self._model,
            "prompt": turn.prompt,
            "max_tokens": len(turn.tokens),
            "temperature": 0,
            "ignore_eos": True,
            "stream": random.random() < 0.6,
            "return_token_ids": random.random() < 0.6,
        }
        if random.random() < 0.1:
            body["logprobs"] = 1  # may not be continued from its tokens, but told again
        leaves = body["stream"] and random.random() < _LEAVE_SHARE
        start, num_retries = time.monotonic(), 0
        while True:
            await self._cluster.serving.wait()
            began, name = time.monotonic(), self._name()
            answer = await self._attempt(body, name, leaves=leaves)
            if answer.is_whole or leaves or not self._was_without_gateway(began):
                break
            num_retries += 1
        verdict, why = ("left", "") if leaves else judge(answer, turn, with_ids=bool(body["return_token_ids"]))
        return Ended(
            verdict=verdict,
            start=start,
            end=time.monotonic(),
            why=f"{name}: {why}" if why else "",
            num_retries=num_retries,
            num_resumes=await self._cluster.resumed_at(name) if body["stream"] else 0,
        )

    def _name(self) -> str:
        self._number += 1
        return f"chaos-{self._number}"

    def _was_without_gateway(self, began: float) -> bool:
        return not self._cluster.serving.is_set() or any(end > began for _, end in self._cluster.gateway_gaps)

    async def _attempt(self, body: dict[str, Any], name: str, *, leaves: bool) -> Answer:
        assert self._http is not None
        answer = Answer()
        url, headers = f"{self._cluster.url}/v1/completions", {"X-Request-Id": name}
        try:
            async with self._http.post(url, json=body, headers=headers) as reply:
                if reply.status != 200:
                    answer.fault = f"status {reply.status}: {(await reply.text())[:300]}"
                elif body["stream"]:
                    await _read_stream(reply, answer, leaves=leaves)
                else:
                    _take(answer, await reply.json())
                    answer.is_whole = True
        except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
            answer.fault = f"{type(error).__name__}: {error}"
        return answer


async def _read_stream(reply: aiohttp.ClientResponse, answer: Answer, *, leaves: bool) -> None:
    async for line in reply.content:
        if line.startswith(b"data: [DONE]"):
            answer.is_whole = not answer.fault
            return
        if line.startswith(b"data: "):
            event = msgspec.json.decode(line[6:])
            if event.get("error"):
                answer.fault = str(event["error"])[:300]
            else:
                _take(answer, event)
        if leaves and answer.text:
            return
    answer.fault = answer.fault or "the stream ended before its end"


def _take(answer: Answer, told: dict[str, Any]) -> None:
    for choice in told["choices"]:
        answer.tokens += choice.get("token_ids") or []
        answer.text += choice["text"]


def judge(answer: Answer, turn: Turn, *, with_ids: bool) -> tuple[str, str]:
    """The verdict, and why it is not right. Also what came of an answer that failed must be right."""
    tokens = turn.tokens[: None if answer.is_whole else len(answer.tokens)]
    text = turn.text[: None if answer.is_whole else len(answer.text)]
    if answer.text != text or (with_ids and answer.tokens != tokens):
        return "wrong", f"{answer.tokens or answer.text!r} instead of {turn.tokens if with_ids else turn.text!r}"
    return ("right", "") if answer.is_whole else ("failed", answer.fault)

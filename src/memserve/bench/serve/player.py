"""Plays sessions against one server and takes the times at the client.

    session: wait for its arrival -> turn 0 -> think -> turn 1 -> ...      all sessions at once

Owns what goes to a server, the same for every system: completions of plain text, greedy, streaming, of a fixed
length, without special tokens, so that an answer's text is all of it. Read with msgspec from a bare stream: the
client shares the cores with what it measures. A request has a deadline and is never repeated; a session ends with
its first failure.
"""

import asyncio
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any

import aiohttp
import msgspec

from memserve.bench.serve.sessions import Session
from memserve.core.clock import Clock
from memserve.core.errors import DeadlineExceeded, InstanceUnavailable

REQUEST_DEADLINE_S = 300.0
"""Of a whole answer."""
SESSION_HEADER = "X-Session-Id"
"""Names the conversation, for proxies that go by it."""

_FORBIDDEN = -100.0
"""Bias with which vLLM never takes a token."""
_DATA, _DONE = b"data: ", b"[DONE]"


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One streamed completion. Times are seconds from the call."""

    text: str
    tokens: tuple[int, ...]
    prompt_tokens: int
    cached_tokens: int
    """As the server says in its usage."""
    ttft_s: float
    jct_s: float

    @property
    def digest(self) -> str:
        return blake2b(b",".join(b"%d" % token for token in self.tokens), digest_size=8).hexdigest()


class Played(msgspec.Struct, frozen=True, kw_only=True):
    """One request of a session, and what became of it."""

    request: str
    session: int
    turn: int
    arrival_s: float
    """When it was sent, after the beginning."""
    answer: Answer | None = None
    error: str = ""
    """Why there is no answer."""
    is_late: bool = False
    """There is none because it did not come in time."""


class _Details(msgspec.Struct, frozen=True):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    prompt_tokens_details: _Details | None = None


class _Choice(msgspec.Struct, frozen=True):
    text: str = ""
    token_ids: list[int] | None = None


class _Event(msgspec.Struct, frozen=True):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


class Player:
    """A client of the server at `url`; `http` belongs to the caller."""

    def __init__(
        self,
        *,
        url: str,
        model: str,
        special_ids: Sequence[int],
        http: aiohttp.ClientSession,
        clock: Clock,
        deadline_s: float = REQUEST_DEADLINE_S,
    ) -> None:
        self._url = url
        self._model = model
        self._bias = {str(token): _FORBIDDEN for token in special_ids}
        self._http = http
        self._clock = clock
        self._deadline_s = deadline_s

    async def play(
        self, sessions: Sequence[Session], *, name: str, on_answer: Callable[[Played], None]
    ) -> list[Played]:
        """Every request of every session, by session and turn; requests are called `name`-session-turn."""
        began = self._clock.now()
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._session(session, number, name=name, began=began, on_answer=on_answer))
                for number, session in enumerate(sessions)
            ]
        return [played for task in tasks for played in task.result()]

    async def ask(self, prompt: str, *, max_tokens: int, request: str, session: str = "") -> Answer:
        """Raises InstanceUnavailable with the server's own words when it fails or answers another number of tokens,
        DeadlineExceeded."""
        body = {
            "model": self._model,
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "logit_bias": self._bias,
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_token_ids": True,
        }
        headers = {"X-Request-Id": request, SESSION_HEADER: session or request}
        started = self._clock.now()
        try:
            async with (
                asyncio.timeout(self._deadline_s),
                self._http.post(f"{self._url}/v1/completions", json=body, headers=headers) as response,
            ):
                if response.status != 200:
                    text = (await response.read())[:300].decode("utf-8", "replace")
                    raise InstanceUnavailable(f"{request} was answered {response.status}: {text}")
                answer = await self._read(response, started=started)
        except TimeoutError as error:
            raise DeadlineExceeded(f"{request} had no whole answer after {self._deadline_s:.0f} s") from error
        except (aiohttp.ClientError, ValueError) as error:
            raise InstanceUnavailable(f"{request} failed: {error or type(error).__name__}") from error
        if len(answer.tokens) != max_tokens:
            raise InstanceUnavailable(f"{request} was answered with {len(answer.tokens)} of {max_tokens} tokens")
        return answer

    async def _session(
        self, session: Session, number: int, *, name: str, began: float, on_answer: Callable[[Played], None]
    ) -> list[Played]:
        played: list[Played] = []
        prompt = ""
        await asyncio.sleep(began + session.arrival_s - self._clock.now())
        for at, turn in enumerate(session.turns):
            await asyncio.sleep(turn.think_s)
            prompt += turn.text
            request = f"{name}-{number}-{at}"
            sent = Played(request=request, session=number, turn=at, arrival_s=self._clock.now() - began)
            try:
                answer = await self.ask(prompt, max_tokens=turn.max_tokens, request=request, session=f"{name}-{number}")
            except InstanceUnavailable as error:
                is_late = isinstance(error, DeadlineExceeded)
                played.append(msgspec.structs.replace(sent, error=str(error), is_late=is_late))
                on_answer(played[-1])
                break
            played.append(msgspec.structs.replace(sent, answer=answer))
            on_answer(played[-1])
            prompt += answer.text
        return played

    async def _read(self, response: aiohttp.ClientResponse, *, started: float) -> Answer:
        """Raises ValueError on a stream that is not one of completions, or that tells of an error."""
        text: list[str] = []
        tokens: list[int] = []
        first: float | None = None
        usage = _Usage(prompt_tokens=0)
        async for line in response.content:
            data = line.removeprefix(_DATA).strip()
            if not line.startswith(_DATA) or data == _DONE:
                continue
            event = msgspec.json.decode(data, type=_Event)
            if event.error is not None:
                raise ValueError(f"the stream says {str(event.error)[:300]}")
            usage = event.usage or usage
            for choice in event.choices:
                text.append(choice.text)
                tokens.extend(choice.token_ids or ())
                if first is None and choice.token_ids:
                    first = self._clock.now()
        ended = self._clock.now()
        details = usage.prompt_tokens_details or _Details()
        return Answer(
            text="".join(text),
            tokens=tuple(tokens),
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=details.cached_tokens or 0,
            ttft_s=(ended if first is None else first) - started,
            jct_s=ended - started,
        )

"""Plays turns through the official openai client, streaming, and takes the time of each.

Owns what goes to a server and what is kept of its answer. Knows nothing of memserve's inside: the same
player talks to the gateway and to plain vLLM. Every request has a deadline and is never repeated.
"""

from collections.abc import AsyncIterator, Sequence

import msgspec
from openai import APIError, AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam

from memserve.core.clock import Clock
from memserve.core.errors import InstanceUnavailable
from memserve.demo.script import Scene

MAX_TOKENS = 48
REQUEST_DEADLINE_S = 120.0

Message = ChatCompletionMessageParam
"""One chat message: role and content, as the API takes it."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One streamed completion."""

    text: str
    token_ids: tuple[int, ...]
    """() when the server does not tell them."""
    prompt_tokens: int
    ttft_s: float
    """From the call to the first token."""
    jct_s: float
    """From the call to the end of the stream."""

    def same_tokens(self, other: "Answer") -> bool:
        """Token by token where both servers told the ids, else by text."""
        if self.token_ids and other.token_ids:
            return self.token_ids == other.token_ids
        return self.text == other.text


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """A request as it was sent, with its answer."""

    conversation: int
    turn: int
    """1-based within the conversation."""
    request: str
    messages: tuple[Message, ...]
    answer: Answer


class Player:
    """A client of one server. Closed by its owner: `async with Player(...)`."""

    def __init__(self, *, url: str, model: str, clock: Clock) -> None:
        self._client = AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=REQUEST_DEADLINE_S, max_retries=0)
        self._model = model
        self._clock = clock

    async def __aenter__(self) -> "Player":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def play(self, scene: Scene) -> AsyncIterator[Turn]:
        """Turn after turn, each with the model's own answers to the ones before."""
        messages: list[Message] = [{"role": "system", "content": scene.system}]
        for number, text in enumerate(scene.human, start=1):
            messages.append({"role": "user", "content": text})
            request = f"demo-{scene.conversation}-{number}"
            answer = await self.ask(request=request, messages=messages)
            yield Turn(
                conversation=scene.conversation, turn=number, request=request, messages=tuple(messages), answer=answer
            )
            messages.append({"role": "assistant", "content": answer.text})

    async def ask(self, *, request: str, messages: Sequence[Message]) -> Answer:
        """Greedy, streaming. Raises InstanceUnavailable with the server's own words when it fails."""
        try:
            return await self._stream(request, messages)
        except APIError as error:
            raise InstanceUnavailable(f"request {request} failed: {error}") from error

    async def _stream(self, request: str, messages: Sequence[Message]) -> Answer:
        started = self._clock.now()
        first: float | None = None
        text: list[str] = []
        token_ids: list[int] = []
        prompt_tokens = 0
        stream = await self._client.chat.completions.create(
            model=self._model,
            messages=messages,
            max_tokens=MAX_TOKENS,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
            extra_headers={"X-Request-Id": request},
            extra_body={"return_token_ids": True},
        )
        async for chunk in stream:
            if chunk.usage is not None:
                prompt_tokens = chunk.usage.prompt_tokens
            for choice in chunk.choices:
                new_ids = (choice.model_extra or {}).get("token_ids") or ()
                token_ids.extend(new_ids)
                text.append(choice.delta.content or "")
                if first is None and (new_ids or choice.delta.content):
                    first = self._clock.now()
        ended = self._clock.now()
        return Answer(
            text="".join(text),
            token_ids=tuple(token_ids),
            prompt_tokens=prompt_tokens,
            ttft_s=(first if first is not None else ended) - started,
            jct_s=ended - started,
        )

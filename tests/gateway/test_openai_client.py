"""The real openai client against the gateway."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import openai
import pytest

from tests.fakes.engine import Fault
from tests.fakes.model import TEXT
from tests.gateway.rig import Rig, Rigs

HELLO = [{"role": "user", "content": "hello"}]


# Making the first client imports modules, which blocks: done here, before an event loop runs.
CLIENT = openai.AsyncOpenAI(base_url="http://127.0.0.1", api_key="none", max_retries=0)


@asynccontextmanager
async def client_of(cluster: Rig) -> AsyncIterator[openai.AsyncOpenAI]:
    async with CLIENT.copy(base_url=cluster.url + "/v1", http_client=openai.DefaultAsyncHttpxClient()) as client:
        yield client


async def test_a_whole_chat_answer_is_understood(rig: Rigs) -> None:
    async with rig() as cluster, client_of(cluster) as client:
        answer = await client.chat.completions.create(model="tiny", messages=HELLO)
        assert answer.choices[0].message.content == TEXT
        assert answer.usage.prompt_tokens_details.cached_tokens == 7


async def test_a_chat_stream_is_understood(rig: Rigs) -> None:
    async with rig() as cluster, client_of(cluster) as client:
        stream = await client.chat.completions.create(
            model="tiny", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        assert "".join(c.choices[0].delta.content for c in chunks if c.choices) == TEXT
        assert chunks[-1].usage.prompt_tokens_details.cached_tokens == 7


async def test_completions_and_models_are_understood(rig: Rigs) -> None:
    async with rig() as cluster, client_of(cluster) as client:
        answer = await client.completions.create(model="tiny", prompt=[1, 2, 3])
        assert answer.choices[0].text == TEXT
        assert [m.id async for m in client.models.list()] == ["tiny"]


async def test_errors_become_the_clients_own_exceptions(rig: Rigs) -> None:
    async with rig() as cluster, client_of(cluster) as client:
        with pytest.raises(openai.NotFoundError, match="`nobody` does not exist"):
            await client.chat.completions.create(model="nobody", messages=HELLO)
        with pytest.raises(openai.BadRequestError, match="kv_transfer_params"):
            await client.chat.completions.create(
                model="tiny", messages=HELLO, extra_body={"kv_transfer_params": {"a": 1}}
            )


async def test_a_broken_stream_raises_in_the_client(rig: Rigs) -> None:
    async with rig() as cluster, client_of(cluster) as client:
        cluster.engine("d0").fault = Fault.CUT
        stream = await client.chat.completions.create(model="tiny", messages=HELLO, stream=True, presence_penalty=1)
        with pytest.raises(openai.APIError, match="broke off"):
            [chunk async for chunk in stream]

"""The prefill instance's token comes first, and the answer is the one that a single engine gives."""

import asyncio
from typing import Any

import pytest

from memserve.wire.messages import RequestReport
from tests.fakes.model import CONTEXT_LENGTH, SCRIPT
from tests.gateway.rig import Rig, Rigs, chat, plain_answer

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
USAGE = {"stream_options": {"include_usage": True}}
RUNNING_USAGE = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
SHAPES: list[dict[str, Any]] = [
    {},
    {"max_tokens": 1},
    {"max_tokens": 2},
    {"max_tokens": 5},
    {"max_tokens": 50},
    {"max_tokens": 50, "min_tokens": 12},
    {"max_tokens": 50, "min_tokens": 1},
    {"min_tokens": 0, "temperature": 0, "seed": 4},
    {"max_tokens": 30, "ignore_eos": True},
    {"stop": "Paged"},
    {"stop": ["ged mem"]},
    {"stop": "d m", "include_stop_str_in_output": True},
    {"stop": [" moves", "memory"]},
    {"stop": ["never said, and long"]},
    {"stop": ["aged"], "min_tokens": 4, "max_tokens": 40},
    {"stop": ["aged"], "min_tokens": 1},
    {"stop": ["\u00e9\U0001f600"]},
    {"stop": []},
    {"stop_token_ids": [SCRIPT[0]]},
    {"stop_token_ids": [SCRIPT[3]]},
    {"stop_token_ids": [SCRIPT[1]], "include_stop_str_in_output": True},
    {"return_token_ids": True},
    {"add_generation_prompt": False, "continue_final_message": True},
    {"return_token_ids": True, "max_tokens": 1},
    {"temperature": 0.7, "top_p": 0.9, "logit_bias": {"1": 2}},
    {"presence_penalty": 0, "n": 1, "echo": False, "response_format": {"type": "text"}},
]


def body_of(path: str, fields: dict[str, Any]) -> dict[str, Any]:
    return chat(**fields) if path == CHAT else {"model": "tiny", "prompt": "hello there, how are you?", **fields}


def as_through_the_gateway(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """With the one thing that differs: cached tokens are those of the prefill instance."""
    for event in events:
        details = (event.get("usage") or {}).get("prompt_tokens_details")
        if details:
            details["cached_tokens"] = 7
    return events


async def check(cluster: Rig, path: str, fields: dict[str, Any]) -> None:
    body = body_of(path, fields)
    received = await cluster.ask(path, body)
    expected = as_through_the_gateway(plain_answer(path, body))
    for extra in ("score", "kv_transfer_params"):  # of the fake's whole answers
        received[0].pop(extra, None)
    assert received == expected, fields


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize("form", [{}, {"stream": True}, {"stream": True, **USAGE}, {"stream": True, **RUNNING_USAGE}])
async def test_every_shape_of_answer_is_that_of_one_engine(rig: Rigs, path: str, form: dict[str, Any]) -> None:
    async with rig() as cluster:
        for shape in SHAPES:
            await check(cluster, path, {**shape, **form})
        assert set(cluster.phases("p0")) == {"prefill"}
        assert await cluster.metric("memserve_gateway_first_tokens_early_total") == len(SHAPES)


@pytest.mark.parametrize("fields", [{"max_tokens": 1}, {"stop": "Paged"}, {"stop_token_ids": [SCRIPT[0]]}])
async def test_an_answer_of_one_token_needs_no_decode_and_its_room_there_is_given_back(
    rig: Rigs, fields: dict[str, Any]
) -> None:
    async with rig() as cluster:
        await cluster.ask(CHAT, chat(**fields))
        assert cluster.engine("d0").seen == []
        await cluster.releases.changes.until(lambda: [e for e, _ in cluster.releases.released] == ["tcp://d0"])


async def test_the_first_token_is_there_before_decode_has_said_anything(rig: Rigs) -> None:
    async with rig() as cluster:
        cluster.engine("d0").break_after = 0
        hold = cluster.engine("d0").hold = asyncio.Event()
        async with cluster.http.post(cluster.url + CHAT, json=chat(stream=True)) as response:
            start = await response.content.readuntil(b"\n\n") + await response.content.readuntil(b"\n\n")
            assert b'"content":"Paged"' in start
            hold.set()
            assert b"memory" in await response.read()


async def test_decode_is_sent_the_tokens_and_what_is_left_to_say(rig: Rigs) -> None:
    async with rig() as cluster:
        fields = {"max_tokens": 9, "min_tokens": 3, "stop": "xyz", "temperature": 0.5, "cache_salt": "pepper"}
        [answer] = await cluster.ask(CHAT, chat(return_token_ids=True, **fields))
        [sent] = cluster.engine("d0").seen
        body = dict(sent.body)
        params = body.pop("kv_transfer_params")["memserve"]
        assert sent.path == TEXT
        assert body == {
            "model": "tiny", "temperature": 0.5, "cache_salt": "pepper", "max_tokens": 8, "min_tokens": 2,
            "prompt": [*answer["prompt_token_ids"], SCRIPT[0]], "return_token_ids": True, "stream": True,
        }  # fmt: skip
        assert (params["phase"], params["num_given"], params["peer"]["instance"]) == ("decode", 1, "p0")


@pytest.mark.parametrize(
    "fields",
    [
        *({"seed": 1}, {"presence_penalty": 0.5}, {"repetition_penalty": 1.1}, {"logprobs": True}, {"n": 2}),
        *({"bad_words": ["x"]}, {"response_format": {"type": "json_object"}}, {"structured_outputs": {"regex": "a"}}),
        *({"tools": [{"type": "function", "function": {"name": "f"}}]}, {"vllm_xargs": {"a": 1}}, {"a_new_field": 1}),
        *({"skip_special_tokens": False}, {"max_tokens": CONTEXT_LENGTH}, {"thinking_token_budget": 5}),
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
    ],
)
async def test_what_decode_would_have_to_inherit_is_left_to_decode(rig: Rigs, fields: dict[str, Any]) -> None:
    async with rig() as cluster:
        status, _ = await cluster.post(chat(**fields))
        assert status == 200
        assert (cluster.phases("p0"), cluster.phases("d0")) == (["prefill"], ["decode"])
        assert [s.path for s in cluster.engine("d0").seen] == [CHAT]
        assert await cluster.metric("memserve_gateway_first_tokens_early_total") == 0


async def test_without_the_context_length_decode_gives_the_first_token(rig: Rigs) -> None:
    async with rig() as cluster:
        cluster.engine("p0").tells_context_length = False
        assert await cluster.ask(CHAT, chat(stream=True)) == plain_answer(CHAT, chat(stream=True))
        assert [s.path for s in cluster.engine("d0").seen] == [CHAT]


async def test_reports_of_both_instances_are_kept(rig: Rigs) -> None:
    told: list[RequestReport] = []
    async with rig() as cluster:
        cluster.context.reports.follow(told.append)
        await cluster.ask(CHAT, chat(stream=True))
        assert [report.instance for report in told] == ["p0", "d0"]

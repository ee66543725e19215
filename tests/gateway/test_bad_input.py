"""What clients get wrong: always an OpenAI-style error with the right status, never a stack trace or a hang."""

import io
from typing import Any

import msgspec
from yarl import URL

from tests.gateway.rig import Rigs, chat


def is_error(answer: Any, code: int) -> bool:
    return set(answer["error"]) == {"message", "type", "param", "code"} and answer["error"]["code"] == code


UNREADABLE = {
    "empty": b"",
    "no json": b"hello",
    "half": b'{"model": "tiny"',
    "invalid utf-8": b'{"model": "\xff\xfe"}',
    "nan": b'{"temperature": NaN}',
    "array": b"[1, 2]",
    "string": b'"text"',
    "null": b"null",
    "deep array": b'{"messages": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "deep object": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "unclosed depth": b"[" * 1_000_000,
    "lone surrogate": b'{"model": "\\ud800"}',
}


async def test_a_body_that_cannot_be_read_is_400(rig: Rigs) -> None:
    async with rig() as cluster:
        for path in ("/v1/chat/completions", "/v1/completions"):
            for name, body in UNREADABLE.items():
                status, answer = await cluster.post(body, path=path)
                assert status == 400, name
                assert is_error(answer, 400), name
        assert cluster.engine("p0").seen == []


WRONG_TYPES: list[dict[str, Any]] = [
    {"messages": 5},
    {"messages": None},
    {"messages": [5]},
    {"messages": [{"role": 7, "content": {}}]},
    {"model": 5},
    {"model": []},
    {"cache_salt": 5},
    {"session_id": {}},
    {"tools": 5},
    {"chat_template_kwargs": 5},
    {"stream_options": 5},
    {"max_tokens": {}},
    {"max_tokens": True},
    {"logprobs": "x", "echo": "y"},
    {"prompt": {"a": 1}, "messages": "x"},
]


async def test_wrong_types_are_answered_by_the_engine_or_refused(rig: Rigs) -> None:
    async with rig() as cluster:
        for fields in WRONG_TYPES:
            status, answer = await cluster.post({**chat(), **fields})
            assert status in (200, 400, 404), fields
            assert status == 200 or is_error(answer, status), fields
        assert cluster.cluster.faults == []


async def test_33_mib_are_413(rig: Rigs) -> None:
    async with rig() as cluster:
        body = io.BytesIO(b'{"prompt": "' + b"x" * (33 << 20) + b'"}')
        async with cluster.http.post(cluster.url + "/v1/completions", data=body) as response:
            assert response.status == 413
            assert is_error(msgspec.json.decode(await response.read()), 413)
        assert cluster.engine("p0").seen == []


async def test_the_transfer_parameters_belong_to_the_gateway(rig: Rigs) -> None:
    async with rig() as cluster:
        status, answer = await cluster.post(chat(kv_transfer_params={"memserve": {}}))
        assert (status, answer["error"]["param"]) == (400, "kv_transfer_params")
        status, _ = await cluster.post(chat(kv_transfer_params=None))
        assert status == 200


async def test_the_transfer_parameters_cannot_be_had_through_other_paths(rig: Rigs) -> None:
    async with rig() as cluster:
        for body in (
            {"kv_transfer_params": {"memserve": {}}},
            {"vllm_xargs": {"kv_transfer_params": "x"}},
            b'{"kv\\u005ftransfer_params": {"a": 1}}',
            b"{",
            b"[" * 10_000,
        ):
            status, answer = await cluster.post(body, path="/v1/responses")
            assert (status, is_error(answer, 400)) == (400, True), body
        assert cluster.engine("p0").seen == cluster.engine("d0").seen == []


async def test_a_request_id_that_is_none_is_replaced(rig: Rigs) -> None:
    async with rig() as cluster:
        for wanted in ("", "a b", "x" * 129, "caf\u00e9"):
            status, _ = await cluster.post(chat(), **{"x-request-id": wanted})
            used = cluster.engine("p0").seen[-1].body["kv_transfer_params"]["memserve"]["request"]
            assert (status, len(used), used.isalnum()) == (200, 32, True), wanted


WRONG_PATHS = (
    ("GET", "/nothing", 404),
    ("DELETE", "/health", 405),
    ("PUT", "/tokenize", 405),
    ("GET", "/v1/%2e%2e/metrics", 404),
    ("GET", "/admin/requests?limit=-1", 400),
    ("GET", "/admin/requests?limit=x", 400),
    ("GET", "/admin/requests?limit=10001", 400),
    ("GET", "/admin/requests/unknown", 404),
)


async def test_wrong_paths_and_methods_get_openai_errors(rig: Rigs) -> None:
    async with rig() as cluster:
        for method, path, status in WRONG_PATHS:
            async with cluster.http.request(method, URL(cluster.url + path, encoded=True)) as response:
                assert response.status == status, path
                assert is_error(await response.json(), status), path


async def test_a_bug_of_the_gateway_is_an_answer_in_the_clients_form(rig: Rigs) -> None:
    async with rig() as cluster:
        cluster.context.tokenizer.tokens = None  # type: ignore[method-assign,assignment]
        status, answer = await cluster.post(chat())
        assert (status, answer["error"]["message"]) == (500, "Internal server error")
        assert await cluster.metric('memserve_gateway_requests_total{route="/v1/chat/completions",status="500"}') == 1

"""Every kind of request answered as plain vLLM answers it: status, body and stream, field by field.

Left out of the comparison are ids, times, and how many prompt tokens were cached: with a cache, that differs by
intention. Chunks of a stream are put together before, since how many tokens come in one depends on the moment.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.e2e.fidelity_requests import ALL, Asked
from tests.e2e.served import Served, serve

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

_NOT_COMPARED = {"id", "created", "cached_tokens", "prompt_tokens_details"}
_GROWING = ("text", "content", "arguments", "token_ids", "tokens", "token_logprobs", "top_logprobs", "text_offset")
_SOME_ID = re.compile(r"(chatcmpl-tool|call|cmpl|chatcmpl)[-_][0-9a-zA-Z-]+")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = serve("--prefill", "1", "--decode", "1", log=tmp_path_factory.mktemp("fidelity") / "serve.log")
    try:
        yield served.wait_ready()
    finally:
        served.close()


def answer(server: Served, asked: Asked) -> tuple[int, Any]:
    """Status and what there is to compare."""
    body = asked.body
    if isinstance(body, bytes):
        got = server.http.post(asked.path, content=body, headers={"content-type": "application/json"})
    else:
        got = server.http.post(asked.path, json={"model": server.model, **body})
    if asked.stream and got.status_code == 200:
        assert got.headers["content-type"].startswith("text/event-stream")
        return got.status_code, folded(events(got))
    return got.status_code, compared(got.json())


def events(got: httpx.Response) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in got.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def compared(value: Any, name: str = "") -> Any:
    """What must be the same: no ids, no times, scores to three digits."""
    if isinstance(value, dict):
        return {key: compared(item, key) for key, item in value.items() if key not in _NOT_COMPARED}
    if isinstance(value, list):
        return [compared(item, name) for item in value]
    if isinstance(value, float):
        return pytest.approx(value, abs=2e-3)
    return _SOME_ID.sub("ID", value) if isinstance(value, str) else value


def folded(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """A stream as one answer: per choice what its chunks say together; of usages the last."""
    choices: dict[int, dict[str, Any]] = {}
    rest: dict[str, Any] = {}
    for chunk in chunks:
        for choice in chunk.pop("choices"):
            grow(choices.setdefault(choice["index"], {}), choice)
        rest |= chunk
    return {"choices": [compared(choices[index]) for index in sorted(choices)], **compared(rest)}


def grow(whole: dict[str, Any], part: dict[str, Any]) -> None:
    """Texts and lists get longer, everything else is what was said last, or first if nothing was said later."""
    for key, value in part.items():
        old = whole.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            grow(old, value)
        elif isinstance(value, str | list) and isinstance(old, str | list) and key in (*_GROWING, "delta", "logprobs"):
            whole[key] = old + value
        elif value is not None or key not in whole:
            whole[key] = value


@pytest.mark.parametrize("asked", ALL, ids=lambda asked: asked.name)
def test_the_answer_is_plain_vllms(asked: Asked, cluster: Served, plain: Served) -> None:
    expected = answer(plain, asked)
    assert answer(cluster, asked) == expected


def test_there_are_at_least_sixty_kinds_and_most_of_them_succeed() -> None:
    assert len({asked.name for asked in ALL}) == len(ALL) >= 60

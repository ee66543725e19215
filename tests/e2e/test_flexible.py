"""Two instances of any role: the answers are plain vLLM's, whoever computes and whoever decodes."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import pytest

from tests.e2e.served import Served, serve

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = serve("--instances", "2", log=tmp_path_factory.mktemp("flexible") / "serve.log")
    try:
        yield served.wait_ready()
    finally:
        served.close()


def tokens(random: Random, number: int) -> list[int]:
    return [random.randrange(100, 40_000) for _ in range(number)]


def placements(cluster: Served) -> Counter[str]:
    name = "memserve_scheduler_decisions_total"
    counted = {sample[1]: value for sample, value in cluster.counters().items() if sample[0] == name}
    return Counter({placement: int(value) for placement, value in counted.items()})


def is_the_same(ours: dict[str, Any], truth: dict[str, Any]) -> bool:
    """Token by token, up to a float tie: loaded KV and computed KV add the same numbers in another order."""
    ids, true_ids = ours["choices"][0]["token_ids"], truth["choices"][0]["token_ids"]
    parted = next((i for i, (a, b) in enumerate(zip(ids, true_ids, strict=True)) if a != b), None)
    if parted is None:
        return True
    best, true_best = (answer["choices"][0]["logprobs"]["token_logprobs"][parted] for answer in (ours, truth))
    return abs(best - true_best) <= 1e-3


def mixed_load(random: Random) -> list[tuple[list[int], int]]:
    """Prompts and how many tokens are to follow: documents between chats."""
    chats = [(tokens(random, 40), 48) for _ in range(6)]
    documents = [(tokens(random, 800), 4) for _ in range(6)]
    return [pair for both in zip(documents, chats, strict=True) for pair in both]


def ask_at_once(cluster: Served, plain: Served, asked: list[tuple[list[int], int]]) -> int:
    """How many were asked; each answer is plain vLLM's."""

    def answers(server: Served) -> list[dict[str, Any]]:
        with ThreadPoolExecutor(6) as pool:
            return list(pool.map(lambda pair: server.complete(pair[0], num_tokens=pair[1]), asked))

    ours, truths = answers(cluster), answers(plain)
    assert all(is_the_same(mine, truth) for mine, truth in zip(ours, truths, strict=True))
    return len(asked)


def test_answers_under_a_mixed_load_are_those_of_plain_vllm_and_both_ways_of_serving_are_taken(
    cluster: Served, plain: Served
) -> None:
    """Long answers keep one instance decoding; long prompts come meanwhile, and then short ones with long answers.

    What prefills and steps take here the scheduler has learnt from a few that came one by one before.
    """
    random = Random(11)
    for prompt, number in (*[(tokens(random, 600), 2)] * 2, (tokens(random, 600), 12)):
        cluster.complete(prompt, num_tokens=number)
    before, num_asked = placements(cluster), 0
    for _ in range(3):  # what is decided depends on how long things take
        num_asked += ask_at_once(cluster, plain, mixed_load(random))
        taken = placements(cluster) - before
        alone, split = (sum(n for name, n in taken.items() if name.startswith(kind)) for kind in ("alone", "split"))
        assert alone + split == num_asked
        if alone and split:
            return
    pytest.fail(f"after {num_asked} requests only one way was taken: {taken}")


def test_a_conversation_stays_right_wherever_its_turns_are_served(cluster: Served, plain: Served) -> None:
    random = Random(12)
    prompt = tokens(random, 200)
    for _ in range(3):
        answer, truth = (server.complete(prompt, num_tokens=12) for server in (cluster, plain))
        assert is_the_same(answer, truth)
        prompt = [*prompt, *answer["choices"][0]["token_ids"], *tokens(random, 50)]
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] >= 200

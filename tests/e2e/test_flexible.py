"""Two instances of any role: the answers are plain vLLM's, whoever computes and whoever decodes.

A policy of the test's own, offered as other packages offer theirs, has every second request split, so that both ways
are taken whatever the machine's speed; what the product chooses by itself, the other tests see.
"""

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.e2e.served import Served, serve

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

POLICY = """
from memserve.core.enums import Phase

class EverySecond:
    in_seconds = True

    def __init__(self, random):
        self.num_asked = 0

    def scores(self, choice):
        if choice.phase is not Phase.WHOLE:
            return choice.loads.tokens * 1e-9
        self.num_asked += 1
        return choice.loads.tokens * 1e-9 + self.num_asked % 2
"""


def offer_policy(folder: Path) -> None:
    """As an installed package would."""
    (folder / "every_second.py").write_text(POLICY)
    info = folder / "every_second-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: every-second\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[memserve.policies]\nevery-second = every_second:EverySecond\n")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("flexible")
    offer_policy(folder)
    env = {"PYTHONPATH": os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])}
    served = serve("--instances", "2", log=folder / "serve.log", env=env)
    try:
        yield served.wait_ready()
    finally:
        served.close()


def tokens(random: Random, number: int) -> list[int]:
    return [random.randrange(100, 40_000) for _ in range(number)]


def placements(cluster: Served) -> Counter[str]:
    """Decisions of the test's own policy so far."""
    name, policy = "memserve_scheduler_decisions_total", "every-second"
    counted = {sample[1]: value for sample, value in cluster.counters().items() if sample[0::2] == (name, policy)}
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


def test_a_conversation_stays_right_wherever_its_turns_are_served(cluster: Served, plain: Served) -> None:
    random = Random(12)
    prompt = tokens(random, 200)
    for _ in range(3):
        answer, truth = (server.complete(prompt, num_tokens=12) for server in (cluster, plain))
        assert is_the_same(answer, truth)
        prompt = [*prompt, *answer["choices"][0]["token_ids"], *tokens(random, 50)]
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] >= 200


def test_answers_under_a_mixed_load_are_those_of_plain_vllm_and_both_ways_of_serving_are_taken(
    cluster: Served, plain: Served
) -> None:
    """Long answers keep the instances decoding while long prompts come."""
    cluster.http.put("/admin/policy", json={"policy": "every-second"}).raise_for_status()
    num_asked = ask_at_once(cluster, plain, mixed_load(Random(11)))
    taken = placements(cluster)
    alone, split = (sum(n for name, n in taken.items() if name.startswith(kind)) for kind in ("alone", "split"))
    assert (alone, split) == (num_asked // 2, num_asked // 2)

"""The caching modes mean what the paper says: tokens computed and moved, counted on real vLLM.

Three turns of one conversation in each mode, once by request and once by layer, and every path for KV is taken by
one of them. The expected numbers follow from the milestones in arXiv 2406.17565 and the block size alone; greedy
tokens equal plain vLLM's.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from random import Random

import pytest

from tests.e2e.served import Served, serve

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

BLOCK = 32
PROMPT, OUTPUT, QUESTION = 150, 14, 50  # every answer fills a block
MODES = ("basic", "prefill", "both", "return", "colocated")
PATHS = {"both": "tcp", "return": "nixl" if find_spec("nixl") else "shm"}
"""Of what is handed over; the others take shared memory."""


@pytest.fixture(scope="module", params=MODES)
def mode_and_cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Served]]:
    mode = request.param
    layout = ("--colocated", "1") if mode == "colocated" else ("--prefill", "1", "--decode", "1", "--caching", mode)
    folder = tmp_path_factory.mktemp(mode)
    settings = folder / "cluster.toml"
    settings.write_text(f'[pool]\npaths = ["{path_of(mode)}"]\n')
    cluster = serve(*layout, "--config", str(settings), log=folder / "serve.log")
    try:
        yield mode, cluster.wait_ready()
    finally:
        cluster.close()


class Expected:
    """What the milestones imply for one turn, in tokens."""

    def __init__(self, mode: str, prompts: list[int]) -> None:
        *earlier, prompt = prompts
        last_prompt = whole(earlier[-1]) if earlier else 0
        last_all = whole(earlier[-1] + OUTPUT - 1) if earlier else 0  # the last token of an answer has no KV
        held = {"basic": 0, "prefill": last_prompt, "both": last_prompt, "return": last_all, "colocated": last_all}
        at_decode = {"both": last_all, "return": last_all}
        self.computed = prompt - held[mode]
        self.moved = 0 if mode == "colocated" else prompt - at_decode.get(mode, 0)
        self.returned = whole(prompt + OUTPUT - 1) - whole(prompt) if mode == "return" else 0


def path_of(mode: str) -> str:
    return PATHS.get(mode, "shm")


def whole(num_tokens: int) -> int:
    return num_tokens // BLOCK * BLOCK


@pytest.mark.parametrize("transfer", ["by-request", "by-layer"])
def test_each_turn_computes_and_moves_what_the_milestone_implies(
    mode_and_cluster: tuple[str, Served], plain: Served, transfer: str
) -> None:
    mode, cluster = mode_and_cluster
    cluster.http.put("/admin/transfer", json={"transfer": transfer}).raise_for_status()
    random = Random(f"{mode} {transfer}")
    prompt = [random.randrange(100, 40_000) for _ in range(PROMPT)]
    lengths: list[int] = []
    for turn in range(3):
        lengths.append(len(prompt))
        before = cluster.counters()
        answer = cluster.complete(prompt, num_tokens=OUTPUT, request_id=(name := f"{mode}-{transfer}-{turn}"))
        cluster.reports(name, count=1 if mode == "colocated" else 2)
        check_counts(mode, Expected(mode, lengths), before, cluster.counters(), num_prompt=len(prompt))
        assert (
            answer["usage"]["prompt_tokens_details"]["cached_tokens"] == len(prompt) - Expected(mode, lengths).computed
        )
        check_same_tokens(answer, plain.complete(prompt, num_tokens=OUTPUT))
        prompt += answer["choices"][0]["token_ids"] + [random.randrange(100, 40_000) for _ in range(QUESTION)]


def check_counts(
    mode: str,
    expected: Expected,
    before: dict[tuple[str, ...], float],
    after: dict[tuple[str, ...], float],
    *,
    num_prompt: int,
) -> None:
    def grown(*sample: str) -> float:
        return after.get(sample, 0.0) - before.get(sample, 0.0)

    prompt_tokens = "memserve_instance_prompt_tokens_total"
    if mode == "colocated":
        assert grown(prompt_tokens, "colocated-0", "computed") == expected.computed
        return
    assert grown(prompt_tokens, "prefill-0", "computed") == expected.computed
    assert grown(prompt_tokens, "decode-0", "computed") == 1
    assert sum(grown(prompt_tokens, "decode-0", s) for s in ("hbm", "dram", "received", "computed")) == num_prompt
    moved = "memserve_transfer_tokens_total"
    assert grown(moved, path_of(mode), "prefill-0", "decode-0") == expected.moved
    assert grown(moved, path_of(mode), "decode-0", "prefill-0") == expected.returned


def check_same_tokens(ours: dict, plain: dict) -> None:
    """Token by token; where they part, only a float tie excuses it: both choices within 1e-3 in log-probability.

    Attention over loaded KV and over freshly computed KV adds the same numbers in another order.
    """
    our_ids, plain_ids = ours["choices"][0]["token_ids"], plain["choices"][0]["token_ids"]
    if our_ids == plain_ids:
        return
    first = next(i for i, (a, b) in enumerate(zip(our_ids, plain_ids, strict=True)) if a != b)
    our_best = ours["choices"][0]["logprobs"]["token_logprobs"][first]
    plain_best = plain["choices"][0]["logprobs"]["token_logprobs"][first]
    assert abs(our_best - plain_best) <= 1e-3, f"token {first}: {our_ids[first]} here, {plain_ids[first]} plain"

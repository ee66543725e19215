"""Prefill and decode instances of different tensor-parallel sizes: each rank finds its heads in what the others wrote.

A small model with random weights and eight heads, because the bundled one's nine cannot be halved.
"""

import os
from pathlib import Path
from random import Random

import msgspec
import psutil
import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from memserve.bundled.model import bundled_model, cache_folder
from tests.e2e.served import plain_vllm, serve

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]


def make_model(folder: Path) -> Path:
    """Eight heads over four KV heads, with the bundled model's tokenizer."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=512,
        intermediate_size=1024,
        num_attention_heads=8,
        num_key_value_heads=4,
        num_hidden_layers=4,
        vocab_size=49_152,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config).to(torch.float32)
    for weights in model.parameters():
        if weights.dim() > 1:
            weights.data.normal_(0, 0.05)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(bundled_model(cache_folder(os.environ))).save_pretrained(folder)
    return folder


class Turn(msgspec.Struct, frozen=True):
    prompt: list[int]
    answer: list[int]
    """Of one process without memserve."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "eight-heads")


@pytest.fixture(scope="module")
def conversations(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Turn]]:
    """One for each transfer mode. The second turn goes on where the first answer ends."""
    random = Random(1)
    truth = plain_vllm(model, "--no-enable-prefix-caching", log=tmp_path_factory.mktemp("plain") / "log").wait_ready()
    played: dict[str, list[Turn]] = {}
    for transfer in ("by-request", "by-layer"):
        turns, said = [], []
        for length in (150, 34):
            said = said + [random.randrange(100, 40_000) for _ in range(length)]
            answer = truth.complete(said, num_tokens=16)["choices"][0]["token_ids"]
            turns.append(Turn(said, answer))
            said = said + answer
        played[transfer] = turns
    truth.close()
    return played


@pytest.mark.parametrize(("prefill", "decode"), [(1, 2), (2, 1)])
def test_instances_of_different_sizes_give_the_tokens_of_one_process(
    prefill: int, decode: int, model: Path, conversations: dict[str, list[Turn]], tmp_path: Path
) -> None:
    sizes = ("--prefill-args", f"-tp {prefill}", "--decode-args", f"-tp {decode}")
    cluster = serve(str(model), *sizes, "--dram", "256MiB", log=tmp_path / "serve.log").wait_ready()
    try:
        for transfer, turns in conversations.items():
            cluster.http.put("/admin/transfer", json={"transfer": transfer}).raise_for_status()
            for number, turn in enumerate(turns):
                answer = cluster.complete(turn.prompt, num_tokens=16, request_id=(name := f"{transfer}-{number}"))
                assert answer["choices"][0]["token_ids"] == turn.answer
                by_phase = {report["phase"]: report for report in cluster.reports(name, count=2)}
                assert by_phase["decode"]["computed_tokens"] == 1
            assert by_phase["prefill"]["computed_tokens"] == 200 - 160  # the block with the first answer came back
        mapped = shared_memory_of(cluster.process.pid)
    finally:
        cluster.close()
    # The pools' arenas, and what ranks share, which vLLM's CPU build does only where it has kernels for it (AVX-512).
    assert mapped
    assert [path for path in mapped if path.exists()] == []


def shared_memory_of(pid: int) -> set[Path]:
    """Files in /dev/shm that the processes under it have mapped."""
    return {
        Path(mapping.path)
        for process in psutil.Process(pid).children(recursive=True)
        for mapping in process.memory_maps()
        if mapping.path.startswith("/dev/shm/") and not mapping.path.endswith("(deleted)")  # noqa: S108
    }

"""Two ranks on each side: every rank moves its part of a block, and a block is there when all parts are.

A small model with random weights and eight heads, because the bundled one's nine cannot be halved.
"""

import os
from pathlib import Path
from random import Random

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from memserve.bundled.model import bundled_model, cache_folder
from tests.e2e.served import plain_vllm, serve

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

BLOCK = 32


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


def test_two_ranks_a_side_give_the_tokens_of_one_process(tmp_path: Path) -> None:
    model = make_model(tmp_path / "eight-heads")
    random = Random(1)
    prompts = [[random.randrange(100, 40_000) for _ in range(150)]]
    prompts.append(prompts[0] + [random.randrange(100, 40_000) for _ in range(50)])
    truth = plain_vllm(model, "--no-enable-prefix-caching", log=tmp_path / "plain.log").wait_ready()
    expected = [truth.complete(p, num_tokens=16)["choices"][0]["token_ids"] for p in prompts]
    truth.close()
    layout = ("--prefill", "1", "--decode", "1", "--dram", "256MiB", "--", "--tensor-parallel-size", "2")
    cluster = serve(str(model), *layout, log=tmp_path / "serve.log").wait_ready()
    try:
        for transfer in ("by-request", "by-layer"):
            cluster.http.put("/admin/transfer", json={"transfer": transfer}).raise_for_status()
            for turn, prompt in enumerate(prompts):
                answer = cluster.complete(prompt, num_tokens=16, request_id=(name := f"{transfer}-{turn}"))
                assert answer["choices"][0]["token_ids"] == expected[turn]
                by_phase = {report["phase"]: report for report in cluster.reports(name, count=2)}
                assert by_phase["decode"]["computed_tokens"] == 1
        assert by_phase["prefill"]["computed_tokens"] == len(prompts[1]) - len(prompts[1]) // BLOCK * BLOCK
    finally:
        cluster.close()

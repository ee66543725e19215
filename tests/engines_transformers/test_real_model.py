"""End to end with the bundled model: a conversation answered with memory reads as one without."""

import os

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from memserve.bundled.model import bundled_model, cache_folder
from memserve.engines.transformers import KvStore, generate, kv_identity
from memserve.instance.mempool import MemPool

BLOCK_SIZE = 16
QUESTIONS = ("Name three rivers in Europe.", "Which of them is the longest?", "And which sea does it flow into?")


@pytest.mark.engine
def test_a_conversation_with_memory_gives_the_same_answers_as_without() -> None:
    folder = bundled_model(cache_folder(os.environ))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    identity = kv_identity(model, block_size=BLOCK_SIZE)
    cluster = f"transformersreal{os.getpid()}"
    with MemPool(
        instance="a",
        block_size=BLOCK_SIZE,
        block_bytes=identity.block_bytes,
        dram_bytes=64 * identity.block_bytes,
        identity=identity,
        cluster=cluster,
    ) as pool:
        store = KvStore(pool, model)
        messages: list[dict[str, str]] = []
        restored = []
        for question in QUESTIONS:
            messages.append({"role": "user", "content": question})
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            given = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
            restored.append(store.restore(given[0].tolist())[1])
            settings = {"max_new_tokens": 16, "do_sample": False}
            remembered = generate(model, given, store, **settings)
            truth = model.generate(given, attention_mask=torch.ones_like(given), **settings)
            assert remembered.tolist() == truth.tolist()
            answer = tokenizer.decode(remembered[0, given.shape[1] :], skip_special_tokens=True)
            messages.append({"role": "assistant", "content": answer})
    assert restored[0] == 0
    assert restored[1] >= BLOCK_SIZE
    assert restored[2] >= restored[1] + BLOCK_SIZE

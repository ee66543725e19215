"""Tokens are the same with and without memory; that is all that `generate` promises."""

import pytest
import torch
from transformers import GenerationConfig, LlamaForCausalLM

from memserve.core.errors import ConfigError, InvalidTokens
from memserve.engines.transformers import KvStore, generate
from memserve.instance.mempool import MemPool
from memserve.wire.identity import namespace
from tests.engines_transformers.conftest import plain
from tests.engines_transformers.tiny import BLOCK_SIZE, NEW_TOKENS, prompt

BORDERS = (1, 2, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1, 5 * BLOCK_SIZE, 5 * BLOCK_SIZE + 1, 6 * BLOCK_SIZE - 1)


def greedy(model: LlamaForCausalLM, input_ids: torch.Tensor, store: KvStore, **settings: object) -> list[int]:
    output = generate(model, input_ids, store, max_new_tokens=NEW_TOKENS, do_sample=False, **settings)  # type: ignore[arg-type]
    return output[0].tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("length", BORDERS)
def test_a_repeated_prompt_gives_the_same_tokens(store: KvStore, model: LlamaForCausalLM, length: int) -> None:
    truth = plain(model, prompt(length))
    assert greedy(model, prompt(length), store) == truth
    assert store.restore(truth)[1] == (length + NEW_TOKENS - 1) // BLOCK_SIZE * BLOCK_SIZE
    assert greedy(model, prompt(length), store) == truth


@pytest.mark.parametrize("length", BORDERS)
def test_a_prompt_that_continues_a_saved_one_gives_the_same_tokens(
    store: KvStore, model: LlamaForCausalLM, length: int
) -> None:
    store_first = greedy(model, prompt(length), store)
    follow_up = torch.cat([torch.tensor([store_first]), prompt(9, seed=5)], dim=1)
    assert greedy(model, follow_up, store) == plain(model, follow_up)


def test_a_prompt_that_shares_only_its_start_gives_the_same_tokens(store: KvStore, model: LlamaForCausalLM) -> None:
    greedy(model, prompt(60), store)
    branched = torch.cat([prompt(29), prompt(20, seed=3)], dim=1)
    assert store.restore(branched[0].tolist())[1] == 24
    assert greedy(model, branched, store) == plain(model, branched)


def test_what_is_restored_is_not_computed_again(store: KvStore, model: LlamaForCausalLM) -> None:
    greedy(model, prompt(40), store)
    lengths: list[int] = []
    hook = model.model.embed_tokens.register_forward_pre_hook(lambda _, given: lengths.append(given[0].shape[1]))
    greedy(model, prompt(45), store)
    hook.remove()
    assert lengths[0] == 5


def test_one_token_is_computed_even_when_the_pool_holds_the_whole_prompt(
    store: KvStore, model: LlamaForCausalLM
) -> None:
    greedy(model, prompt(48), store)
    assert store.restore(prompt(40)[0].tolist())[1] == 40
    assert greedy(model, prompt(40), store) == plain(model, prompt(40))


def test_namespaces_are_kept_apart(pool: MemPool, store: KvStore, model: LlamaForCausalLM) -> None:
    truth = plain(model, prompt(40))
    for salt in ("one", "two"):
        assert greedy(model, prompt(40), store, namespace=namespace(salt=salt)) == truth
    assert store.restore(truth)[1] == 0
    assert sum(tier.num_cached for tier in pool.stats().tiers) == 2 * (51 // BLOCK_SIZE)


def test_a_full_pool_changes_no_token(pool: MemPool, store: KvStore, model: LlamaForCausalLM) -> None:
    pool.alloc_mem(64)
    truth = plain(model, prompt(40))
    assert greedy(model, prompt(40), store) == truth
    assert greedy(model, prompt(40), store) == truth
    assert store.restore(truth)[1] == 0


def test_the_output_has_the_form_that_was_asked_for(store: KvStore, model: LlamaForCausalLM) -> None:
    config = GenerationConfig(max_new_tokens=4, do_sample=False, return_dict_in_generate=True, output_logits=True)
    output = generate(model, prompt(20), store, generation_config=config)
    assert output.sequences[0].tolist() == plain(model, prompt(20), 4)
    assert len(output.logits) == 4


def test_prompt_lookup_decoding_saves_only_what_it_kept(store: KvStore, model: LlamaForCausalLM) -> None:
    repeated = torch.cat([prompt(12), prompt(12), prompt(12)], dim=1)
    truth = plain(model, repeated)
    assert greedy(model, repeated, store, prompt_lookup_num_tokens=3) == truth
    assert greedy(model, torch.tensor([truth]), store) == plain(model, torch.tensor([truth]))


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 2},
        {"num_return_sequences": 2, "do_sample": True},
        {"prefill_chunk_size": 4},
        {"token_healing": True},
        {"generation_config": GenerationConfig(num_beams=2)},
        {"attention_mask": torch.zeros(1, 5)},
        {"inputs_embeds": torch.zeros(1, 5, 48)},
        {"use_cache": False},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_settings_that_do_not_fit_one_restored_prompt_are_refused(
    store: KvStore, model: LlamaForCausalLM, settings: dict[str, object]
) -> None:
    with pytest.raises(ConfigError, match="generate with a store"):
        generate(model, prompt(5), store, max_new_tokens=1, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(2, 5), (1, 0), (5,)])
def test_anything_but_one_prompt_is_refused(store: KvStore, model: LlamaForCausalLM, shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidTokens, match="one prompt"):
        generate(model, torch.ones(shape, dtype=torch.long), store, max_new_tokens=1)

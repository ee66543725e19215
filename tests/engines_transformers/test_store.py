"""What KvStore keeps of a cache, and what it gives back."""

import numpy as np
import pytest
import torch
from transformers import Cache, DynamicCache, LlamaForCausalLM, StaticCache

from memserve.core.enums import Tier
from memserve.core.errors import ConfigError, IdentityMismatch
from memserve.engines.transformers import KvStore, kv_identity
from memserve.instance.mempool import MemPool
from memserve.wire.identity import namespace
from memserve.wire.messages import BlockList, PeerInfo
from tests.engines_transformers.tiny import BLOCK_SIZE, pool_for, prompt, tiny_model


class ForgetfulPool(MemPool):
    """Loses an entry just before every allocation, as when another thread deletes it."""

    def alloc_mem(self, num_blocks: int, *, tier: Tier = Tier.DRAM, on: PeerInfo | None = None) -> BlockList:
        self.delete(prompt(BLOCK_SIZE)[0].numpy())
        return super().alloc_mem(num_blocks, tier=tier, on=on)


def computed(model: LlamaForCausalLM, input_ids: torch.Tensor, cache: Cache | None = None) -> Cache:
    """The cache after a prefill."""
    cache = DynamicCache(config=model.config) if cache is None else cache
    with torch.no_grad():
        model(input_ids, past_key_values=cache)
    return cache


def stacked(cache: Cache, num_tokens: int) -> torch.Tensor:
    """[layers, 2, heads, tokens, head_dim]"""
    return torch.stack([torch.stack([x.keys[0, :, :num_tokens], x.values[0, :, :num_tokens]]) for x in cache.layers])


def test_a_restored_cache_has_the_very_bytes_that_were_saved(store: KvStore, model: LlamaForCausalLM) -> None:
    tokens = prompt(37)
    cache = computed(model, tokens)
    assert store.save(tokens[0].tolist(), cache) == 32
    restored, num_tokens = store.restore(tokens[0].tolist())
    assert (num_tokens, restored.get_seq_length()) == (32, 32)
    assert torch.equal(stacked(restored, 32), stacked(cache, 32))


def test_a_block_holds_layers_then_k_and_v_then_heads_then_tokens(
    pool: MemPool, store: KvStore, model: LlamaForCausalLM
) -> None:
    tokens = prompt(2 * BLOCK_SIZE)[0].numpy()
    cache = computed(model, prompt(2 * BLOCK_SIZE))
    store.save(tokens, cache)
    with pool.match(tokens) as found:
        raw = np.frombuffer(pool.read(found.addresses), np.float32)
    blocks = raw.reshape(2, 3, 2, 2, BLOCK_SIZE, 12)
    np.testing.assert_array_equal(blocks[1], stacked(cache, 2 * BLOCK_SIZE)[:, :, :, BLOCK_SIZE:].numpy())


def test_only_tokens_that_are_new_to_the_pool_are_written(store: KvStore, model: LlamaForCausalLM) -> None:
    assert store.save(prompt(20)[0].tolist(), computed(model, prompt(20))) == 16
    assert store.save(prompt(20)[0].tolist(), computed(model, prompt(20))) == 0
    longer = computed(model, prompt(50))
    assert store.save(prompt(50)[0].tolist(), longer) == 32
    restored, num_tokens = store.restore(prompt(50)[0].tolist())
    assert num_tokens == 48
    assert torch.allclose(stacked(restored, 48), stacked(longer, 48), atol=1e-4)


def test_tokens_whose_kv_the_cache_lacks_are_not_saved(store: KvStore, model: LlamaForCausalLM) -> None:
    assert store.save(prompt(24)[0].tolist(), computed(model, prompt(23))) == 16
    assert store.save(prompt(7)[0].tolist(), computed(model, prompt(23))) == 0
    assert store.save(prompt(24)[0].tolist(), DynamicCache(config=model.config)) == 0


def test_a_restored_cache_outlives_the_eviction_of_its_blocks(model: LlamaForCausalLM) -> None:
    with pool_for(model, instance="small", num_blocks=2) as pool:
        store = KvStore(pool, model)
        first = computed(model, prompt(16))
        store.save(prompt(16)[0].tolist(), first)
        restored, _ = store.restore(prompt(16)[0].tolist())
        assert store.save(prompt(16, seed=1)[0].tolist(), computed(model, prompt(16, seed=1))) == 16
        assert store.restore(prompt(16)[0].tolist())[1] == 0
        assert torch.equal(stacked(restored, 16), stacked(first, 16))


def test_a_full_pool_saves_nothing_and_keeps_what_it_has(pool: MemPool, model: LlamaForCausalLM) -> None:
    store = KvStore(pool, model)
    store.save(prompt(16)[0].tolist(), computed(model, prompt(16)))
    blocks = pool.alloc_mem(62)
    assert store.save(prompt(40)[0].tolist(), computed(model, prompt(40))) == 0
    assert store.restore(prompt(40)[0].tolist())[1] == 16
    pool.free_mem(blocks)
    assert store.save(prompt(40)[0].tolist(), computed(model, prompt(40))) == 24
    assert pool.stats().num_leases == 0


def test_a_prefix_that_is_deleted_meanwhile_costs_no_more_than_the_saving(model: LlamaForCausalLM) -> None:
    with pool_for(model, instance="forgetful", kind=ForgetfulPool) as pool:
        store = KvStore(pool, model)
        store.save(prompt(16)[0].tolist(), computed(model, prompt(16)))
        assert store.save(prompt(40)[0].tolist(), computed(model, prompt(40))) == 0
        assert pool.stats().tiers[0].num_free == 64
        assert store.save(prompt(40)[0].tolist(), computed(model, prompt(40))) == 40


def test_a_namespace_does_not_see_what_another_one_saved(store: KvStore, model: LlamaForCausalLM) -> None:
    tokens = prompt(16)[0].tolist()
    store.save(tokens, computed(model, prompt(16)), namespace=namespace(salt="tenant-1"))
    assert store.restore(tokens, namespace=namespace(salt="tenant-2"))[1] == 0
    assert store.restore(tokens)[1] == 0
    assert store.restore(tokens, namespace=namespace(salt="tenant-1"))[1] == 16


def test_a_static_cache_can_be_saved_and_comes_back_as_a_dynamic_one(store: KvStore, model: LlamaForCausalLM) -> None:
    static = computed(model, prompt(20), StaticCache(config=model.config, max_cache_len=64))
    assert store.save(prompt(20)[0].tolist(), static) == 16
    restored, _ = store.restore(prompt(20)[0].tolist())
    assert torch.equal(stacked(restored, 16), stacked(static, 16))


def test_bfloat16_survives_the_pool_bit_by_bit() -> None:
    model = tiny_model(dtype=torch.bfloat16)
    with pool_for(model, instance="bf16") as pool:
        store = KvStore(pool, model)
        cache = computed(model, prompt(16))
        store.save(prompt(16)[0].tolist(), cache)
        restored, _ = store.restore(prompt(16)[0].tolist())
        assert torch.equal(stacked(restored, 16), stacked(cache, 16))


def test_a_batch_of_two_is_refused_before_anything_is_saved(
    pool: MemPool, store: KvStore, model: LlamaForCausalLM
) -> None:
    two = computed(model, torch.cat([prompt(16), prompt(16, seed=1)]))
    with pytest.raises(ConfigError, match=r"\(2, 2, 12, 'float32'\)"):
        store.save(prompt(16)[0].tolist(), two)
    assert pool.stats().tiers[0].num_free == 64


def test_a_pool_made_for_other_weights_is_refused(pool: MemPool) -> None:
    with pytest.raises(IdentityMismatch, match="model: "):
        KvStore(pool, tiny_model(seed=1))


def test_a_pool_made_for_another_dtype_is_refused(pool: MemPool) -> None:
    with pytest.raises(IdentityMismatch, match=r"dtype: 'float32' here, 'bfloat16' there"):
        KvStore(pool, tiny_model(dtype=torch.bfloat16))


def test_the_same_weights_have_the_same_identity_again() -> None:
    assert kv_identity(tiny_model(), block_size=8) == kv_identity(tiny_model(), block_size=8)

"""Paged KV tensors of one rank as vLLM allocates them, small and filled with random bytes."""

import torch
from vllm.v1.kv_cache_interface import (
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheGroupSpec,
    KVCacheTensor,
    compute_layout_strides,
    create_kv_cache_views,
)
from vllm.v1.kv_cache_layout import KVCacheLayout

from memserve.engines.vllm.block_layout import rank_share
from memserve.engines.vllm.layout import EngineMemory, block_layout

LAYERS = tuple(f"model.layers.{i}.self_attn.attn" for i in range(3))
NUM_BLOCKS = 6
BLOCK_SIZE = 32
CPU = torch.device("cpu")
NUM_KV_HEADS = 4
HEAD_SIZE = 8
HEAD_BYTES = BLOCK_SIZE * 2 * HEAD_SIZE * 4
BLOCK_BYTES = len(LAYERS) * NUM_KV_HEADS * HEAD_BYTES
"""Of a pool block: all layers, all heads."""


def paged_memory(
    *,
    rank: int = 0,
    num_ranks: int = 1,
    layout: KVCacheLayout = KVCacheLayout.LBHNC,
    num_blocks: int = NUM_BLOCKS,
    num_kv_heads: int = NUM_KV_HEADS,
    num_layers: int = len(LAYERS),
    head_size: int = HEAD_SIZE,
    dtype: torch.dtype = torch.float32,
    run_size: int | None = None,
    device: torch.device = CPU,
) -> EngineMemory:
    """`layout` is the order in memory of layers, blocks, heads, tokens and content; on CPU vLLM's is LBHNC."""
    each = max(1, num_kv_heads // num_ranks)
    spec = FullAttentionSpec(block_size=BLOCK_SIZE, num_kv_heads=each, head_size=head_size, dtype=dtype)
    strides = compute_layout_strides(spec, num_blocks, num_layers, layout)
    names = [f"model.layers.{i}.self_attn.attn" for i in range(num_layers)]
    size = spec.page_size_bytes * num_blocks * num_layers
    placed = KVCacheTensor(size=size, layers=names, layer_stride=strides[0], block_stride=strides[1])
    raw = torch.randint(-128, 128, (size,), dtype=torch.int8).to(device)
    caches = dict(zip(names, create_kv_cache_views(raw, spec, num_blocks, layout, placed, run_size), strict=True))
    group = KVCacheGroupSpec(layer_names=names, kv_cache_spec=spec)
    config = KVCacheConfig(num_blocks=num_blocks, kv_cache_tensors=[placed], kv_cache_groups=[group])
    return EngineMemory(
        config,
        caches,
        layout=block_layout(config, num_kv_heads=num_kv_heads),
        share=rank_share(rank=rank, num_ranks=num_ranks, num_heads=num_kv_heads),
    )

"""Paged KV tensors as vLLM allocates them, small and filled with distinct bytes."""

import torch
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec, KVCacheTensor

LAYERS = tuple(f"model.layers.{i}.self_attn.attn" for i in range(3))
NUM_BLOCKS = 6
BLOCK_SIZE = 32
_SPEC = FullAttentionSpec(block_size=BLOCK_SIZE, num_kv_heads=2, head_size=8, dtype=torch.float32)
PAGE_BYTES = _SPEC.page_size_bytes


def paged_cache(*, outermost: str, num_blocks: int = NUM_BLOCKS) -> tuple[KVCacheConfig, dict[str, torch.Tensor]]:
    """`outermost` is "layer" (each layer contiguous, as on CPU) or "block" (each block contiguous)."""
    by_layer = outermost == "layer"
    layer_stride = PAGE_BYTES * (num_blocks if by_layer else 1)
    block_stride = PAGE_BYTES * (1 if by_layer else len(LAYERS))
    size = PAGE_BYTES * num_blocks * len(LAYERS)
    raw = torch.randint(0, 256, (size,), dtype=torch.uint8)
    caches = {
        name: raw.as_strided((num_blocks, PAGE_BYTES), (block_stride, 1), i * layer_stride)
        for i, name in enumerate(LAYERS)
    }
    placed = KVCacheTensor(size=size, layers=list(LAYERS), layer_stride=layer_stride, block_stride=block_stride)
    group = KVCacheGroupSpec(layer_names=list(LAYERS), kv_cache_spec=_SPEC)
    return KVCacheConfig(num_blocks=num_blocks, kv_cache_tensors=[placed], kv_cache_groups=[group]), caches

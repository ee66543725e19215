"""Where an engine's KV tensors lie in memory, as far as the connector asks."""

from dataclasses import dataclass


class FullAttentionSpec:
    pass


@dataclass(frozen=True)
class KVCacheTensor:
    layers: tuple[str, ...]
    layer_stride: int
    """In bytes, as the others."""
    block_stride: int
    offset: int = 0


@dataclass(frozen=True)
class KVCacheConfig:
    num_blocks: int
    kv_cache_tensors: tuple[KVCacheTensor, ...]

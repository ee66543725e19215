"""Where the bytes of an engine block lie: the only place that knows vLLM's paged KV tensors.

A pool block is the concatenation over ranks, then over layers in vLLM's order, of one page each.
Bytes inside a page are opaque; two instances share them only when their KvIdentity agrees.
"""

from collections.abc import Sequence

import torch
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig

from memserve.core.errors import ConfigError


def rank_bytes(kv_cache_config: KVCacheConfig) -> int:
    """Bytes of one block on one rank, all layers. Raises ConfigError unless all layers keep their full context."""
    return sum(len(t.layers) for t in kv_cache_config.kv_cache_tensors) * _page_bytes(kv_cache_config)


def num_layers(kv_cache_config: KVCacheConfig) -> int:
    return sum(len(t.layers) for t in kv_cache_config.kv_cache_tensors)


def _page_bytes(kv_cache_config: KVCacheConfig) -> int:
    groups = kv_cache_config.kv_cache_groups
    kinds = sorted({type(g.kv_cache_spec).__name__ for g in groups})
    if len(groups) != 1 or not isinstance(groups[0].kv_cache_spec, FullAttentionSpec):
        raise ConfigError(
            f"this model has {len(groups)} KV cache groups of kinds {kinds}; memserve shares KV of models whose layers "
            "all keep their full context; start vLLM without --kv-transfer-config for this one"
        )
    return int(groups[0].kv_cache_spec.page_size_bytes)


class EngineMemory:
    """The paged KV tensors of one rank as bytes.

    `pages[t]` has shape [layers of tensor t, num_blocks, page bytes] and aliases vLLM's own memory.
    """

    def __init__(self, kv_cache_config: KVCacheConfig, kv_caches: dict[str, torch.Tensor]) -> None:
        page_bytes = _page_bytes(kv_cache_config)
        self.pages: list[torch.Tensor] = []
        self._place: dict[str, tuple[int, int, int]] = {}
        offset = 0
        for placed in kv_cache_config.kv_cache_tensors:
            names = list(placed.layers)
            first = kv_caches[names[0]]
            storage = first.untyped_storage()
            if first.data_ptr() - storage.data_ptr() != placed.offset:
                raise ConfigError(
                    f"layer {names[0]} lies {first.data_ptr() - storage.data_ptr()} bytes into its storage, vLLM plans "
                    f"{placed.offset}: this vLLM lays KV out in a way that memserve was not tested with"
                )
            raw = torch.empty(0, dtype=torch.uint8, device=first.device).set_(storage)
            shape = (len(names), kv_cache_config.num_blocks, page_bytes)
            stride = (placed.layer_stride, placed.block_stride, 1)
            for layer, name in enumerate(names):
                self._place[name] = (len(self.pages), layer, offset + layer * page_bytes)
            self.pages.append(raw.as_strided(shape, stride, placed.offset))
            offset += len(names) * page_bytes
        self.page_bytes = page_bytes
        self.block_bytes = offset

    @property
    def layers(self) -> Sequence[str]:
        """Names in the order of their bytes within a block."""
        return tuple(self._place)

    def write_out(self, block: int, target: torch.Tensor) -> None:
        """Copy all layers of `block` into `target`, uint8 of shape [block_bytes]."""
        start = 0
        for pages in self.pages:
            end = start + pages.shape[0] * self.page_bytes
            target[start:end].view(pages.shape[0], self.page_bytes).copy_(pages[:, block])
            start = end

    def write_out_layer(self, layer: str, block: int, target: torch.Tensor) -> None:
        """Copy one layer of `block` into its place in `target`, uint8 of shape [block_bytes]."""
        offset = self.layer_offset(layer)
        self.write_out_page(layer, block, target[offset : offset + self.page_bytes])

    def write_out_page(self, layer: str, block: int, target: torch.Tensor) -> None:
        """Copy one layer of `block` into `target`, uint8 of shape [page_bytes]."""
        tensor, position, _ = self._place[layer]
        target.copy_(self.pages[tensor][position, block])

    def layer_offset(self, layer: str) -> int:
        """Where the layer's page begins in a block, in bytes."""
        return self._place[layer][2]

    def read_in(self, block: int, source: torch.Tensor) -> None:
        """Copy `source`, uint8 of shape [block_bytes], into all layers of `block`."""
        start = 0
        for pages in self.pages:
            end = start + pages.shape[0] * self.page_bytes
            pages[:, block].copy_(source[start:end].view(pages.shape[0], self.page_bytes))
            start = end

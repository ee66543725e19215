"""Where the bytes of an engine block lie: the only place that knows vLLM's paged KV tensors.

Copies between them and pool blocks, which are laid out as block_layout.py draws them. Bytes of a head are
opaque; two instances share them only when their KvIdentity agrees.
"""

from collections.abc import Sequence

import torch
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheTensor

from memserve.core.errors import ConfigError
from memserve.engines.vllm.block_layout import BlockLayout, RankShare


def block_layout(kv_cache_config: KVCacheConfig, *, num_kv_heads: int) -> BlockLayout:
    """Of a model with `num_kv_heads` over all ranks. Raises ConfigError unless all layers keep their full context."""
    groups = kv_cache_config.kv_cache_groups
    kinds = sorted({type(g.kv_cache_spec).__name__ for g in groups})
    if len(groups) != 1 or not isinstance(groups[0].kv_cache_spec, FullAttentionSpec):
        raise ConfigError(
            f"this model has {len(groups)} KV cache groups of kinds {kinds}; memserve shares KV of models whose layers "
            "all keep their full context; start vLLM without --kv-transfer-config for this one"
        )
    spec = groups[0].kv_cache_spec
    return BlockLayout(
        num_layers=sum(len(t.layers) for t in kv_cache_config.kv_cache_tensors),
        num_heads=num_kv_heads * spec.num_heads // spec.num_kv_heads,
        head_bytes=spec.num_states * spec.state_content_size_bytes,
    )


class EngineMemory:
    """The paged KV tensors of one rank as bytes, with the place of each page in a pool block.

    `pages[t]` aliases vLLM's own memory; its shape is [layers of tensor t, num_blocks, heads of this rank, runs,
    tokens of a run, bytes]: a backend may split a block into runs of tokens, each with all heads.
    """

    def __init__(
        self,
        kv_cache_config: KVCacheConfig,
        kv_caches: dict[str, torch.Tensor],
        *,
        layout: BlockLayout,
        share: RankShare,
    ) -> None:
        self.layout = layout
        self.share = share
        self.pages: list[torch.Tensor] = []
        self._first_layer: list[int] = []
        self._place: dict[str, tuple[int, int]] = {}
        for placed in kv_cache_config.kv_cache_tensors:
            pages = _pages(kv_caches[placed.layers[0]], placed, kv_cache_config.num_blocks)
            num_heads, head_bytes = pages.shape[2], pages[0, 0, 0].numel()
            if (num_heads, head_bytes) != (share.num_heads, layout.head_bytes):
                raise _untested(
                    placed, f"{num_heads} heads of {head_bytes} bytes", f"{share.num_heads} of {layout.head_bytes}"
                )
            self._first_layer.append(len(self._place))
            self._place.update((name, (len(self.pages), index)) for index, name in enumerate(placed.layers))
            self.pages.append(pages)

    @property
    def layers(self) -> Sequence[str]:
        """Names in the order of their bytes within a block."""
        return tuple(self._place)

    @property
    def holds_all_heads(self) -> bool:
        """A block of this rank is a whole pool block."""
        return self.share.num_heads == self.layout.num_heads

    @property
    def page_bytes(self) -> int:
        """Of one layer of one block on this rank."""
        return self.share.num_heads * self.layout.head_bytes

    def write_out(self, block: int, target: torch.Tensor) -> None:
        """Copy this rank's heads of all layers of `block` into `target`, uint8 of shape [layout.block_bytes]."""
        for tensor, pages in enumerate(self.pages):
            self.part(target, self.layers_of(tensor)).copy_(pages[:, block])

    def write_out_layer(self, layer: str, block: int, target: torch.Tensor) -> None:
        """Copy this rank's heads of one layer of `block` into their place in `target`, as in `write_out`."""
        number = self.layer_number(layer)
        self.part(target, range(number, number + 1)).copy_(self.pages_of(layer)[:, block])

    def write_out_page(self, layer: str, block: int, target: torch.Tensor) -> None:
        """Copy this rank's heads of one layer of `block` into `target`, uint8 of shape [page_bytes]."""
        page = self.pages_of(layer)[0, block]
        target.view(page.shape).copy_(page)

    def page_offset(self, layer: str) -> int:
        """Where this rank's heads of the layer begin in a pool block, in bytes."""
        return self.layout.offset(self.layer_number(layer), self.share)

    def read_in(self, block: int, source: torch.Tensor) -> None:
        """Copy this rank's heads out of `source`, uint8 of shape [layout.block_bytes], into all layers of `block`."""
        for tensor, pages in enumerate(self.pages):
            pages[:, block].copy_(self.part(source, self.layers_of(tensor)))

    @property
    def device(self) -> torch.device:
        return self.pages[0].device

    def layer_number(self, layer: str) -> int:
        """Its place among the layers of a block."""
        tensor, index = self._place[layer]
        return self._first_layer[tensor] + index

    def layers_of(self, tensor: int) -> range:
        """The layers of pages[tensor] by number."""
        first = self._first_layer[tensor]
        return range(first, first + self.pages[tensor].shape[0])

    def pages_of(self, layer: str) -> torch.Tensor:
        """Of one layer: as pages[t], with one layer."""
        tensor, index = self._place[layer]
        return self.pages[tensor][index : index + 1]

    def part(self, block: torch.Tensor, layers: range) -> torch.Tensor:
        """This rank's heads of some layers in a pool block, [layers, heads, runs, tokens of a run, bytes]."""
        heads = block.view(self.layout.num_layers, self.layout.num_heads, *self.pages[0].shape[3:])
        return heads[layers.start : layers.stop, self.share.first_head : self.share.end_head]


def _pages(cache: torch.Tensor, placed: KVCacheTensor, num_blocks: int) -> torch.Tensor:
    """All layers that begin with `cache`, [blocks, heads, tokens, elements] in any order in memory, as EngineMemory
    keeps them. Raises ConfigError unless they lie where vLLM plans them."""
    storage = cache.untyped_storage()
    offset = cache.data_ptr() - storage.data_ptr()
    runs = cache.shape[0] // num_blocks
    size, (of_run, of_head, of_token, of_element) = cache.element_size(), cache.stride()
    if (offset, runs * of_run * size, of_element) != (placed.offset, placed.block_stride, 1):
        raise _untested(
            placed,
            f"a stride of {runs * of_run * size} bytes a block at offset {offset}",
            f"{placed.block_stride} at {placed.offset}",
        )
    raw = torch.empty(0, dtype=torch.uint8, device=cache.device).set_(storage)
    shape = (len(placed.layers), num_blocks, cache.shape[1], runs, cache.shape[2], cache.shape[3] * size)
    stride = (placed.layer_stride, placed.block_stride, of_head * size, of_run * size, of_token * size, 1)
    return raw.as_strided(shape, stride, placed.offset)


def _untested(placed: KVCacheTensor, found: str, planned: str) -> ConfigError:
    return ConfigError(
        f"layer {placed.layers[0]} has {found}, planned are {planned}: this vLLM lays KV out in a way that memserve "
        "was not tested with"
    )

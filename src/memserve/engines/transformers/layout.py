"""Where K and V of a `Cache` lie inside a pool block: the only place that knows their order.

A block holds `block_size` tokens of all layers, contiguous, C order, in the model's dtype:

    [num_layers, 2, num_kv_heads, block_size, head_dim]      index 1: 0 is K, 1 is V

K is stored as the cache holds it, position already applied; a block is therefore good for its own tokens
after its own prefix only, which is what the pool's index finds it by.
"""

import msgspec
import torch
from transformers import Cache, DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer, StaticLayer

from memserve.core.errors import ConfigError

_WHOLE_CONTEXT = (DynamicLayer, StaticLayer)
"""Kinds of cache layers that keep K and V of every token; by exact type, since others derive from them."""
_MOVING_ROPES = frozenset({"dynamic", "longrope"})
"""Position encodings that depend on the length of the whole prompt, so that a prefix has no K of its own."""


class KvLayout(msgspec.Struct, frozen=True, kw_only=True):
    """Shape of one pool block."""

    num_layers: int
    num_kv_heads: int
    head_dim: int
    block_size: int
    """Tokens."""
    dtype: str
    """Name in torch, e.g. "bfloat16"."""

    @property
    def torch_dtype(self) -> torch.dtype:
        found: torch.dtype = getattr(torch, self.dtype)
        return found

    @property
    def block_bytes(self) -> int:
        values = self.num_layers * 2 * self.num_kv_heads * self.block_size * self.head_dim
        return values * int(self.torch_dtype.itemsize)

    def tensor_of(self, block: torch.Tensor) -> torch.Tensor:
        """[num_layers, 2, num_kv_heads, block_size, head_dim] that aliases the bytes of one block, a uint8 tensor."""
        shape = (self.num_layers, 2, self.num_kv_heads, self.block_size, self.head_dim)
        return block.view(self.torch_dtype).view(shape)

    def empty_run(self, num_blocks: int, device: torch.device) -> torch.Tensor:
        """Room for consecutive blocks: [num_layers, 2, num_kv_heads, num_blocks, block_size, head_dim].

        `run[:, :, :, i]` has the shape of block i, `run.flatten(3, 4)[layer]` that of a layer's K and V.
        """
        shape = (self.num_layers, 2, self.num_kv_heads, num_blocks, self.block_size, self.head_dim)
        return torch.empty(shape, dtype=self.torch_dtype, device=device)

    def check(self, cache: Cache) -> None:
        """Raise ConfigError unless this filled cache keeps the whole context of one sequence in this layout."""
        kinds = sorted({type(layer).__name__ for layer in cache.layers if type(layer) not in _WHOLE_CONTEXT})
        if kinds:
            raise ConfigError(f"a cache with layers of kind {', '.join(kinds)} cannot be saved: use a DynamicCache")
        expected = (1, self.num_kv_heads, self.head_dim, self.dtype)
        found = {
            (part.shape[0], part.shape[1], part.shape[3], _name(part.dtype))
            for layer in cache.layers
            for part in (layer.keys, layer.values)
        }
        if len(cache.layers) != self.num_layers or found != {expected}:
            raise ConfigError(
                f"the cache has {len(cache.layers)} layers with (batch, heads, head_dim, dtype) {sorted(found)}, the "
                f"store's model makes {self.num_layers} with {expected}: save one sequence at a time, of that model"
            )


def layout_of(config: PreTrainedConfig, *, dtype: torch.dtype, block_size: int) -> KvLayout:
    """Layout for a model with this configuration. Raises ConfigError when a prefix of its KV cannot be reused."""
    decoder = config.get_text_config(decoder=True)
    _check_reusable(decoder)
    heads = int(decoder.num_attention_heads)
    return KvLayout(
        num_layers=int(decoder.num_hidden_layers),
        num_kv_heads=int(getattr(decoder, "num_key_value_heads", None) or heads),
        head_dim=int(getattr(decoder, "head_dim", None) or decoder.hidden_size // heads),
        block_size=block_size,
        dtype=_name(dtype),
    )


def _check_reusable(config: PreTrainedConfig) -> None:
    kinds = sorted({type(layer).__name__ for layer in DynamicCache(config=config).layers} - {DynamicLayer.__name__})
    ropes = sorted(_rope_types(config) & _MOVING_ROPES)
    if config.is_encoder_decoder or kinds or ropes:
        raise ConfigError(
            f"KV of a {config.model_type} model (cache layers {kinds or 'full'}, rope {ropes or 'fixed'}, encoder "
            f"{bool(config.is_encoder_decoder)}) cannot be kept by prefix: use a decoder that keeps its full context"
        )


def _rope_types(config: PreTrainedConfig) -> set[str]:
    """Kinds of position encoding: one for the model, or one for each kind of layer."""
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    return {str(group.get("rope_type")) for group in (parameters, *nested)}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

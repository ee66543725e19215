"""KvStore: saves the KV of a Hugging Face `Cache` in a MemPool by its tokens, and restores the longest prefix.

Owns no memory: blocks belong to the pool, caches to the caller. Whatever the pool cannot take is not saved and
costs a later miss; what it holds, on whatever tier, is copied out under a lease, so eviction never shows through a
restored cache. Thread-safe as the pool is, as long as nobody else changes the cache meanwhile.
"""

import contextlib
from collections.abc import Sequence

import torch
from transformers import Cache, DynamicCache, PreTrainedModel

from memserve.core.enums import Tier
from memserve.core.errors import InvalidBlocks, PoolExhausted
from memserve.core.ids import BlockId
from memserve.engines.device.arena import DeviceArena
from memserve.engines.transformers.block_bytes import BlockBytes
from memserve.engines.transformers.identity import kv_identity
from memserve.engines.transformers.layout import layout_of
from memserve.instance.mempool import MemPool
from memserve.pool.tokens import TOKEN_BYTES, Tokens, as_token_bytes
from memserve.wire.identity import Namespace
from memserve.wire.messages import BlockList


class KvStore:
    """One pool as the KV memory of one model on one device."""

    def __init__(self, pool: MemPool, model: PreTrainedModel, *, arena: DeviceArena | None = None) -> None:
        """`arena` is the pool's HBM tier on the model's device: KV is then saved there, and what it takes the place
        of goes to DRAM. Raises IdentityMismatch unless the pool was made with `kv_identity(model, block_size=...)`.
        """
        identity = pool.info.identity
        identity.check_same(kv_identity(model, block_size=identity.block_size), "this model")
        self._pool = pool
        self._config = model.config
        self._device = model.device
        self._layout = layout_of(model.config, dtype=model.dtype, block_size=identity.block_size)
        self._tier = Tier.DRAM if arena is None else Tier.HBM
        self._bytes = BlockBytes(pool, self._layout, device=model.device, arena=arena)

    def save(self, tokens: Tokens, cache: Cache, *, namespace: Namespace = b"") -> int:
        """Keep the whole blocks of `tokens` whose KV the cache holds; returns how many tokens are new in the pool.

        0 as well when the pool has no room. The cache is left as it is. Raises ConfigError for a cache of another
        kind or shape, InvalidTokens.
        """
        data = bytes(as_token_bytes(tokens))
        block_size = self._layout.block_size
        num_blocks = min(len(data) // TOKEN_BYTES, cache.get_seq_length()) // block_size
        if num_blocks == 0:
            return 0
        self._layout.check(cache)
        data = data[: num_blocks * block_size * TOKEN_BYTES]
        with self._pool.match(data, namespace=namespace) as held:
            return self._add(data, cache, held.addresses, num_blocks - len(held.addresses.blocks), namespace)

    def restore(self, tokens: Tokens, *, namespace: Namespace = b"") -> tuple[DynamicCache, int]:
        """A fresh cache with the KV of the longest saved prefix in whole blocks, and its number of tokens.

        (an empty cache, 0) when nothing is saved. What cannot be read again ends the prefix, and leaves the pool.
        Raises InvalidTokens.
        """
        cache = DynamicCache(config=self._config)
        with self._pool.match(tokens, namespace=namespace) as found:
            num_tokens = self._fill(cache, found.addresses.blocks) * self._layout.block_size if found.num_tokens else 0
        if num_tokens < found.num_tokens:
            lost = num_tokens + self._layout.block_size
            self._pool.delete(bytes(as_token_bytes(tokens))[: lost * TOKEN_BYTES], namespace=namespace)
        return cache, num_tokens

    def _add(self, data: bytes, cache: Cache, held: BlockList, num_new: int, namespace: Namespace) -> int:
        """Write and index what follows the blocks held already; all of it or nothing."""
        if num_new == 0:
            return 0
        try:
            room = self._room(num_new)
        except PoolExhausted:
            return 0
        try:
            self._write(cache, len(held.blocks), room.blocks)
            whole = BlockList(instance=room.instance, incarnation=room.incarnation, blocks=(*held.blocks, *room.blocks))
            indexed = self._pool.insert(data, whole, namespace=namespace)
        except InvalidBlocks:  # somebody has deleted the prefix meanwhile: what continues it has no place
            self._pool.free_mem(room)
            return 0
        except BaseException:
            self._pool.free_mem(room)
            raise
        return len(set(indexed.blocks) & set(room.blocks)) * self._layout.block_size

    def _write(self, cache: Cache, first: int, blocks: Sequence[BlockId]) -> None:
        """Copy the cache's blocks from number `first` on into these, which nobody else can see yet."""
        shape = (len(blocks), self._layout.block_size)
        start = first * self._layout.block_size
        with torch.no_grad():
            run = self._layout.empty_run(len(blocks), self._device)
            for number, layer in enumerate(cache.layers):
                for kind, part in enumerate((layer.keys, layer.values)):
                    run[number, kind].copy_(part[0, :, start : start + shape[0] * shape[1]].unflatten(1, shape))
            self._bytes.write(blocks, run)

    def _room(self, num_blocks: int) -> BlockList:
        """Raises PoolExhausted."""
        if self._tier is Tier.HBM:
            (free,) = (tier.num_free for tier in self._pool.stats().tiers if tier.tier is Tier.HBM)
            if free < num_blocks:
                with contextlib.suppress(PoolExhausted):  # DRAM is full, or all is in use: the pool evicts what it can
                    self._pool.swap_out(num_blocks - free)
        return self._pool.alloc_mem(num_blocks, tier=self._tier)

    def _fill(self, cache: DynamicCache, blocks: Sequence[BlockId]) -> int:
        """Returns how many of them could be read; the cache stays empty without any."""
        with torch.no_grad():
            run = self._layout.empty_run(len(blocks), self._device)
            num_read = self._bytes.read(blocks, run)
        if num_read:
            layers = run[:, :, :, :num_read].flatten(3, 4).unsqueeze(2)
            for layer, (keys, values) in zip(cache.layers, layers, strict=True):
                layer.lazy_initialization(keys, values)
                layer.keys, layer.values = keys, values
        return num_read

    def __repr__(self) -> str:
        return f"KvStore({self._pool}, {self._layout})"

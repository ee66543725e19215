"""Paged KV of a simulated engine, in vLLM's order of bytes: layers, blocks, heads, tokens, content."""

from collections.abc import Sequence

import numpy as np
import torch
from vllm.v1.kv_cache_interface import KVCacheConfig, KVCacheTensor

from memserve.engines.vllm.block_layout import BlockLayout, rank_share
from memserve.engines.vllm.layout import EngineMemory
from tests.chaos.tokens import HEAD_BYTES, NUM_HEADS, NUM_LAYERS, TOKEN_BYTES

BLOCK_SIZE = 16
"""Tokens."""
BLOCK_BYTES = BLOCK_SIZE * TOKEN_BYTES
LAYERS = tuple(f"layer.{number}" for number in range(NUM_LAYERS))


class PagedKv:
    def __init__(self, num_blocks: int) -> None:
        raw = torch.zeros(NUM_LAYERS, num_blocks, NUM_HEADS, BLOCK_SIZE, HEAD_BYTES, dtype=torch.uint8)
        page = NUM_HEADS * BLOCK_SIZE * HEAD_BYTES
        placed = KVCacheTensor(layers=LAYERS, layer_stride=num_blocks * page, block_stride=page)
        self.memory = EngineMemory(
            KVCacheConfig(num_blocks=num_blocks, kv_cache_tensors=(placed,)),
            dict(zip(LAYERS, raw, strict=True)),
            layout=BlockLayout(num_layers=NUM_LAYERS, num_heads=NUM_HEADS, head_bytes=BLOCK_SIZE * HEAD_BYTES),
            share=rank_share(rank=0, num_ranks=1, num_heads=NUM_HEADS),
        )
        self._pages = raw.numpy()

    def read(self, blocks: Sequence[int], num_tokens: int) -> np.ndarray:
        """KV of the first tokens in these blocks, shape [num_tokens, TOKEN_BYTES]."""
        used = self._pages[:, list(blocks[: -(-num_tokens // BLOCK_SIZE)])]
        by_token = used.transpose(1, 3, 0, 2, 4).reshape(-1, TOKEN_BYTES)
        return np.ascontiguousarray(by_token[:num_tokens])

    def write(self, blocks: Sequence[int], first: int, kv: bytes) -> None:
        """KV of tokens from number `first` on, in their places."""
        rows = np.frombuffer(kv, dtype=np.uint8).reshape(-1, NUM_LAYERS, NUM_HEADS, HEAD_BYTES)
        for number, row in enumerate(rows, first):
            self._pages[:, blocks[number // BLOCK_SIZE], :, number % BLOCK_SIZE] = row

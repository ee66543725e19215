"""LMCache's engine with its CPU backend.

What LMCache calls a GPU connector copies between the engine's memory and LMCache's. There is none for
plain host memory; the one here makes one copy a chunk, the least that any would.
"""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import torch
from lmcache.utils import mock_up_broadcast_fn, mock_up_broadcast_object_fn
from lmcache.v1.cache_engine import LMCacheEngineBuilder
from lmcache.v1.config import LMCacheEngineConfig
from lmcache.v1.gpu_connector.mock_gpu_connector import MockGPUConnector
from lmcache.v1.metadata import LMCacheMetadata

from memserve.bench.systems.channel import Handler
from memserve.bench.systems.pool_child import POOL_BYTES, TOKEN_BYTES, Buffer, serve_pool

_CHUNK_TOKENS = 256
_KV_SHAPE = (32, 2, _CHUNK_TOKENS, 8, 128)
"""Layers, K and V, tokens, heads, head size."""


class HostConnector(MockGPUConnector):  # type: ignore[misc]
    """Copies between a flat buffer of the whole prompt and LMCache's chunks."""

    def get_shape(self, num_tokens: int) -> torch.Size:
        return torch.Size((2, 32, num_tokens, 8 * 128))

    def batched_from_gpu(self, memory_objs: Sequence[Any], starts: list[int], ends: list[int], **kwargs: Any) -> None:
        for chunk, start, end in zip(memory_objs, starts, ends, strict=True):
            _flat(chunk).copy_(kwargs["engine"][start * TOKEN_BYTES : end * TOKEN_BYTES])

    def batched_to_gpu(self, memory_objs: Sequence[Any], starts: list[int], ends: list[int], **kwargs: Any) -> None:
        for chunk, start, end in zip(memory_objs, starts, ends, strict=True):
            kwargs["engine"][start * TOKEN_BYTES : end * TOKEN_BYTES].copy_(_flat(chunk))


class LmcachePool:
    """One engine of one rank."""

    version = version("lmcache")

    def __init__(self) -> None:
        metadata = LMCacheMetadata(
            model_name="bench",
            world_size=1,
            local_world_size=1,
            worker_id=0,
            local_worker_id=0,
            kv_dtype=torch.bfloat16,
            kv_shape=_KV_SHAPE,
            chunk_size=_CHUNK_TOKENS,
        )
        config = LMCacheEngineConfig.from_defaults(
            chunk_size=_CHUNK_TOKENS, local_cpu=True, max_local_cpu_size=POOL_BYTES / 2**30
        )
        self._engine = LMCacheEngineBuilder.get_or_create(
            "bench", config, metadata, HostConnector(_KV_SHAPE), mock_up_broadcast_fn, mock_up_broadcast_object_fn
        )
        self._engine.post_init()

    def put(self, tokens: list[int], source: Buffer) -> None:
        self._engine.store(tokens, engine=torch.from_numpy(source))

    def get(self, tokens: list[int], target: Buffer) -> None:
        found = int(self._engine.retrieve(tokens, engine=torch.from_numpy(target)).sum())
        if found != len(tokens):
            raise RuntimeError(f"{found} of {len(tokens)} tokens are cached")


def _flat(chunk: Any) -> torch.Tensor:
    return chunk.tensor.view(torch.uint8).view(-1)


def _make() -> tuple[LmcachePool, Mapping[str, Handler]]:
    return LmcachePool(), {}


if __name__ == "__main__":
    serve_pool(_make)

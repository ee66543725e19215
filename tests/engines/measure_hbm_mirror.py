"""What mirroring vLLM's prefix cache costs an engine's step. Not a test.

python -m tests.engines.measure_hbm_mirror

64 requests of 4096 tokens in blocks of 16 decode side by side: the time of one step's calls when no prompt ends, and
of telling one prompt.
"""

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
from vllm.v1.core.block_pool import BlockPool

from memserve.engines.vllm.hbm_mirror import HbmMirror
from memserve.instance.mempool import MemPool

BLOCK, NUM_REQUESTS, NUM_TOKENS = 16, 64, 4096
NUM_BLOCKS = NUM_TOKENS // BLOCK
_ROUNDS = 200


def _median_us(call: Callable[[int], object], rounds: int) -> float:
    taken = []
    for number in range(rounds):
        start = time.perf_counter()
        call(number)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken) * 1e6


def main() -> None:
    pool = BlockPool(num_gpu_blocks=2 * NUM_REQUESTS * NUM_BLOCKS, enable_caching=True, hash_block_size=BLOCK)
    prompts = [np.arange(n * NUM_TOKENS, (n + 1) * NUM_TOKENS, dtype="<i4").tobytes() for n in range(NUM_REQUESTS)]
    blocks = [[block.block_id for block in pool.get_new_blocks(NUM_BLOCKS)] for _ in prompts]
    for ids in blocks:
        for block in ids:
            pool.blocks[block].set_block_hash(block.to_bytes(36, "little"), num_tokens=BLOCK)
    with MemPool(instance="measured", block_size=BLOCK, block_bytes=4096, dram_bytes=4096, cluster="measure") as mem:
        mirror = HbmMirror(mem.engine_blocks, block_size=BLOCK)
        mirror.bind(pool)

        def step(_: int) -> None:
            for n, ids in enumerate(blocks):
                mirror.planned(str(n), prompts[n], ids, NUM_TOKENS, namespace=b"")
            mirror.step()

        told = _median_us(lambda n: mirror.ended(f"first {n}", prompts[n], blocks[n], namespace=b""), NUM_REQUESTS)
        step(0)
        step(1)
        again = _median_us(lambda n: mirror.ended(f"again {n}", prompts[n % 64], blocks[n % 64], namespace=b""), 64)
        step(2)
        step(3)
        quiet = _median_us(step, _ROUNDS)
    sys.stdout.write(
        f"a step of {NUM_REQUESTS} requests in which no prompt ends: {quiet:.0f} us; telling a prompt of {NUM_TOKENS} "
        f"tokens in {NUM_BLOCKS} blocks: {told:.0f} us the first time, {again:.0f} us when it is known\n"
    )


if __name__ == "__main__":
    main()

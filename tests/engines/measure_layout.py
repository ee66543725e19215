"""What a rank's strided copies cost beside copying whole blocks: `python -m tests.engines.measure_layout`.

Alternates all cases in one run on one thread, between paged memory as vLLM's CPU backend lays it out and pool blocks
of a model of 32 layers with 8 KV heads; prints medians, in GB of blocks a second.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable

import torch

from memserve.engines.vllm.layout import EngineMemory
from tests.engines.paged import paged_memory

NUM_BLOCKS, NUM_ROUNDS = 96, 15
SHAPE = {"num_kv_heads": 8, "num_layers": 32, "num_blocks": NUM_BLOCKS, "head_size": 64}


def all_out(ranks: list[EngineMemory], blocks: torch.Tensor) -> None:
    for rank in ranks:
        for number, block in enumerate(blocks):
            rank.write_out(number, block)


def all_in(ranks: list[EngineMemory], blocks: torch.Tensor) -> None:
    for rank in ranks:
        for number, block in enumerate(blocks):
            rank.read_in(number, block)


def whole(source: torch.Tensor, blocks: torch.Tensor) -> None:
    for number, block in enumerate(blocks):
        block.copy_(source[number])


def main() -> None:
    torch.set_num_threads(1)
    ranks = {size: [paged_memory(rank=r, num_ranks=size, **SHAPE) for r in range(size)] for size in (1, 2, 4)}
    blocks = torch.ones(NUM_BLOCKS, ranks[1][0].layout.block_bytes, dtype=torch.uint8)
    source = torch.ones_like(blocks)
    cases: dict[str, Callable[[], None]] = {"whole blocks": lambda: whole(source, blocks)}
    for size, memories in ranks.items():
        cases[f"TP={size} out"] = lambda memories=memories: all_out(memories, blocks)  # type: ignore[misc]
        cases[f"TP={size} in"] = lambda memories=memories: all_in(memories, blocks)  # type: ignore[misc]
    seconds = defaultdict(list)
    for _ in range(NUM_ROUNDS):
        for name, case in cases.items():
            began = time.perf_counter()
            case()
            seconds[name].append(time.perf_counter() - began)
    for name, taken in seconds.items():
        print(f"{name:14} {blocks.nbytes / statistics.median(taken) / 1e9:6.2f} GB/s")  # noqa: T201


if __name__ == "__main__":
    main()

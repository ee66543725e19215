"""Who holds what in a made-up cluster, for benchmarks of routing: the same in every process that asks.

Owns the shape. A prompt is one of a few beginnings and a part of its own; two instances hold each prompt, so a
beginning is soon held by all. Tokens are made when asked for.
"""

from typing import NamedTuple

import numpy as np

from memserve.bench.prompts import BLOCK_SIZE, VOCABULARY, Tokens

NUM_INSTANCES = 64
HOLDERS = 2
_NUM_BEGINNINGS = 40


class Cluster(NamedTuple):
    """What 64 instances hold."""

    prompt_blocks: int = 128
    """2,048 tokens, half of them a beginning that others share."""
    scale: int = 1
    """Divides the number of prompts: 1 gives a million different blocks."""

    @property
    def num_prompts(self) -> int:
        return 16_384 // self.scale

    @property
    def own_blocks(self) -> int:
        """Of each prompt: those that no other one has."""
        return self.prompt_blocks // 2

    @property
    def num_blocks(self) -> int:
        """Different blocks in the whole cluster."""
        return self.num_prompts * self.own_blocks + _NUM_BEGINNINGS * (self.prompt_blocks - self.own_blocks)

    def tokens(self, number: int) -> Tokens:
        """Of one prompt; numbers past the last one give prompts that nobody holds beyond the beginning."""
        beginning = np.random.default_rng((1, number % _NUM_BEGINNINGS))
        own = np.random.default_rng((2, number))
        shared = (self.prompt_blocks - self.own_blocks) * BLOCK_SIZE
        return np.concatenate(
            (
                beginning.integers(0, VOCABULARY, shared, dtype=np.int32),
                own.integers(0, VOCABULARY, self.own_blocks * BLOCK_SIZE, dtype=np.int32),
            )
        )

    def holders(self, number: int, num_instances: int) -> tuple[int, ...]:
        """Which of so many instances hold this prompt."""
        first = number * 7 % num_instances
        return tuple((first + step * (1 + number % 31)) % num_instances for step in range(HOLDERS))

"""Prompts for index benchmarks: trees of conversations, the same in every process that asks with the same shape.

Owns the shape of the trees. Tokens are made when asked for and only the last few segments
are kept, so that a process that measures memory holds nothing of the workload.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

BLOCK_SIZE = 16
VOCABULARY = 128_000
FAN_OUT = {"deep": (10, 10, 5, 5, 2, 2, 1, 1), "shallow": (100, 100)}
"""Children of each node by level: both trees have 10,000 leaves, each the end of one prompt of full length."""

Tokens = npt.NDArray[np.int32]


class Shape(NamedTuple):
    """Which tree, and how many blocks a prompt of full length has (a multiple of the tree's depth)."""

    tree: str
    blocks: int
    scale: int = 1
    """Divides the fan-out of the first level: 1 gives 10,000 prompts, 10 a thousand."""

    @property
    def fan_out(self) -> tuple[int, ...]:
        first, *rest = FAN_OUT[self.tree]
        return (max(1, first // self.scale), *rest)

    @property
    def depth(self) -> int:
        return len(FAN_OUT[self.tree])

    @property
    def segment_blocks(self) -> int:
        """Blocks that one level adds."""
        return self.blocks // self.depth

    @property
    def num_prompts(self) -> int:
        return int(np.prod(self.fan_out))

    @property
    def num_blocks(self) -> int:
        """Different blocks in the whole tree."""
        return int(sum(np.cumprod(self.fan_out))) * self.segment_blocks


class Turn(NamedTuple):
    """One prompt as it comes: the first `known` blocks are indexed before it, those after are new."""

    leaf: int
    level: int
    known: int
    blocks: int

    @property
    def is_full(self) -> bool:
        """Whether it is the last turn of its conversation."""
        return self.level < 0


def turns(shape: Shape) -> Iterator[Turn]:
    """All turns of all conversations: each node of the tree once, after its parent; a leaf's level is -1."""
    per_leaf = _leaves_below(shape)
    for leaf in range(shape.num_prompts):
        for level in range(shape.depth):
            if leaf % per_leaf[level] == 0:
                last = level == shape.depth - 1
                step = shape.segment_blocks
                yield Turn(leaf, -1 if last else level, level * step, (level + 1) * step)


def tokens_of(shape: Shape, leaf: int, num_blocks: int) -> Tokens:
    """The first `num_blocks` blocks of the conversation that ends in this leaf."""
    per_leaf = _leaves_below(shape)
    levels = -(-num_blocks // shape.segment_blocks)
    parts = [_segment(shape, level, leaf // per_leaf[level]) for level in range(levels)]
    return np.concatenate(parts)[: num_blocks * BLOCK_SIZE]


def partly_cached(shape: Shape, leaf: int, percent: int) -> Tokens:
    """A full prompt of which `percent` of the blocks are in the tree and the rest is new."""
    tokens = tokens_of(shape, leaf, shape.blocks)
    cut = shape.blocks * percent // 100 * BLOCK_SIZE
    tokens[cut:] = np.random.default_rng((7, leaf, percent)).integers(
        VOCABULARY, 2 * VOCABULARY, tokens.size - cut, dtype=np.int32
    )
    return tokens


def _leaves_below(shape: Shape) -> tuple[int, ...]:
    fan_out = shape.fan_out
    return tuple(int(np.prod(fan_out[level + 1 :], initial=1)) for level in range(len(fan_out)))


@lru_cache(maxsize=32)
def _segment(shape: Shape, level: int, number: int) -> Tokens:
    seed = np.random.default_rng((level, number, shape.blocks))
    return seed.integers(0, VOCABULARY, shape.segment_blocks * BLOCK_SIZE, dtype=np.int32)

"""The benchmark's prompts form the trees that they claim."""

import numpy as np
import pytest

from memserve.bench.prompts import BLOCK_SIZE, Shape, partly_cached, tokens_of, turns

SHAPES = [Shape("deep", 32, 10), Shape("shallow", 32, 10)]


@pytest.mark.parametrize("tree", ["deep", "shallow"])
def test_a_whole_tree_has_ten_thousand_prompts(tree: str) -> None:
    assert Shape(tree, 128).num_prompts == 10_000


def test_a_deep_tree_has_eight_levels_of_turns() -> None:
    assert Shape("deep", 128).depth == 8


@pytest.mark.parametrize("shape", SHAPES)
def test_what_a_turn_calls_known_was_the_end_of_an_earlier_turn(shape: Shape) -> None:
    seen = {b""}
    for turn in turns(shape):
        tokens = tokens_of(shape, turn.leaf, turn.blocks)
        assert tokens[: turn.known * BLOCK_SIZE].tobytes() in seen
        assert tokens.tobytes() not in seen
        seen.add(tokens.tobytes())


@pytest.mark.parametrize("shape", SHAPES)
def test_the_turns_bring_as_many_blocks_as_the_shape_says(shape: Shape) -> None:
    every = list(turns(shape))
    assert sum(turn.blocks - turn.known for turn in every) == shape.num_blocks
    assert sum(turn.is_full for turn in every) == shape.num_prompts


def test_tokens_are_the_same_each_time_they_are_asked_for() -> None:
    shape = Shape("deep", 32, 10)
    assert np.array_equal(tokens_of(shape, 77, 32), tokens_of(shape, 77, 32))


@pytest.mark.parametrize("percent", [0, 25, 50, 75, 100])
def test_a_partly_cached_prompt_leaves_the_tree_at_the_block_that_is_asked_for(percent: int) -> None:
    shape = Shape("deep", 32, 10)
    same = partly_cached(shape, 5, percent) == tokens_of(shape, 5, 32)
    assert np.count_nonzero(same) == 32 * percent // 100 * BLOCK_SIZE

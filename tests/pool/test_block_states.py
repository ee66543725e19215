"""The table of block states: each legal move works, each other one raises."""

from itertools import product

import pytest

from memserve.core.enums import Tier
from memserve.core.errors import IllegalTransition
from memserve.core.ids import make_block_id
from memserve.pool.block import LEGAL_MOVES, BlockState, BlockStates

BLOCK = make_block_id(Tier.DRAM, 3, 5)
PATHS = {
    BlockState.FREE: [],
    BlockState.ACTIVE: [BlockState.ACTIVE],
    BlockState.RECEIVING: [BlockState.RECEIVING],
    BlockState.HISTORICAL: [BlockState.ACTIVE, BlockState.HISTORICAL],
    BlockState.DETACHED: [BlockState.ACTIVE, BlockState.HISTORICAL, BlockState.DETACHED],
}


def in_state(state: BlockState) -> BlockStates:
    states, before = BlockStates(), BlockState.FREE
    for after in PATHS[state]:
        states.move((BLOCK,), before, after)
        before = after
    return states


@pytest.mark.parametrize(("start", "finish"), list(product(BlockState, BlockState)))
def test_a_block_moves_only_as_the_table_says(start: BlockState, finish: BlockState) -> None:
    states = in_state(start)
    if (start, finish) in LEGAL_MOVES:
        states.move((BLOCK,), start, finish)
        assert states.state(BLOCK) is finish
    else:
        with pytest.raises(IllegalTransition, match=f"{start.name} -> {finish.name} is not a legal move"):
            states.move((BLOCK,), start, finish)
        assert states.state(BLOCK) is start


def test_a_move_from_another_state_names_the_block_and_moves_none() -> None:
    states = in_state(BlockState.HISTORICAL)
    other = make_block_id(Tier.HBM, 0, 1)
    states.move((other,), BlockState.FREE, BlockState.ACTIVE)
    with pytest.raises(IllegalTransition, match=f"block {BLOCK:#x} is HISTORICAL"):
        states.move((other, BLOCK), BlockState.ACTIVE, BlockState.FREE)
    assert states.state(other) is BlockState.ACTIVE
    assert states.count(Tier.HBM, BlockState.ACTIVE) == 1


def test_a_block_named_twice_moves_not_at_all() -> None:
    states = in_state(BlockState.ACTIVE)
    with pytest.raises(IllegalTransition, match="named twice"):
        states.move((BLOCK, BLOCK), BlockState.ACTIVE, BlockState.FREE)
    assert states.state(BLOCK) is BlockState.ACTIVE


def test_those_in_none_of_some_states_are_told_apart() -> None:
    states, other = BlockStates(), make_block_id(Tier.DRAM, 0, 1)
    states.move([BLOCK], BlockState.FREE, BlockState.ACTIVE)
    assert set(states.in_none_of([BLOCK, other], {BlockState.ACTIVE, BlockState.HISTORICAL})) == {other}
    assert set(states.in_none_of([BLOCK, other], {BlockState.HISTORICAL})) == {BLOCK, other}

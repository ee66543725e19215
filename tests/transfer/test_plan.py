"""Cutting blocks into pieces, and choosing between by-layer and by-request."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memserve.core.enums import PiecePlan, TransferMode
from memserve.transfer.pace import PaceByLoad
from memserve.transfer.plan import pieces

AUTO, BY_LAYER, BY_REQUEST = TransferMode.AUTO, TransferMode.BY_LAYER, TransferMode.BY_REQUEST


@given(plan=st.sampled_from(PiecePlan), num_bytes=st.integers(1, 5000), num_layers=st.integers(1, 80))
def test_the_pieces_are_the_whole_part_in_order_and_none_is_empty(
    plan: PiecePlan, num_bytes: int, num_layers: int
) -> None:
    cut = pieces(plan, num_bytes=num_bytes, num_layers=num_layers)
    assert [place for piece in cut for place in piece] == list(range(num_bytes))
    assert all(cut)


def test_an_aggregated_block_is_one_piece_and_a_discrete_one_two_for_each_layer() -> None:
    assert len(pieces(PiecePlan.AGGREGATED, num_bytes=640, num_layers=32)) == 1
    assert [len(piece) for piece in pieces(PiecePlan.DISCRETE, num_bytes=640, num_layers=32)] == [10] * 64


def test_prompts_leave_by_layer_at_low_load_and_by_request_at_high_load() -> None:
    pace = PaceByLoad(calm=2, busy=4)
    assert pace.choose(AUTO, num_prompts=1) is BY_LAYER
    assert pace.choose(AUTO, num_prompts=4) is BY_REQUEST


def test_between_the_limits_the_choice_stays_what_it_was() -> None:
    pace = PaceByLoad(calm=2, busy=4)
    assert [pace.choose(AUTO, num_prompts=n) for n in (3, 4, 3, 2, 3)] == [
        BY_LAYER,
        BY_REQUEST,
        BY_REQUEST,
        BY_LAYER,
        BY_LAYER,
    ]


@pytest.mark.parametrize("asked", [BY_LAYER, BY_REQUEST])
@pytest.mark.parametrize("num_prompts", [1, 100])
def test_what_is_asked_for_is_done_whatever_the_load(asked: TransferMode, num_prompts: int) -> None:
    assert PaceByLoad().choose(asked, num_prompts=num_prompts) is asked

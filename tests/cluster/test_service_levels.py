"""Times of the latest requests: what counts, what does not, and what is told in another order."""

import pytest

from memserve.cluster.service_levels import Levels, ServiceLevels, Targets, over_all
from memserve.core.clock import ManualClock
from memserve.core.ids import RequestId

TARGETS = Targets(ttft_s=2.0, tpot_s=0.1, share=0.5)
ONE = RequestId("one")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def levels(clock: ManualClock) -> ServiceLevels:
    return ServiceLevels(clock=clock, targets=TARGETS, window_s=10.0)


def test_nobody_came_and_all_is_zero(levels: ServiceLevels) -> None:
    assert levels.now() == Levels()


def test_a_stream_tells_its_first_token_and_its_pace(levels: ServiceLevels, clock: ManualClock) -> None:
    levels.began(ONE, at=0.0)
    clock.advance(1.0)
    levels.first_token(ONE)
    clock.advance(3.0)
    levels.ended(ONE)
    levels.produced(ONE, 4)
    now = levels.now()
    assert (now.num_requests, now.ttft_s, now.num_answers, now.tpot_s) == (1, 1.0, 1, 1.0)
    assert now.num_prompts == pytest.approx(0.1)


def test_the_number_of_tokens_may_be_told_before_the_end(levels: ServiceLevels, clock: ManualClock) -> None:
    levels.began(ONE, at=0.0)
    levels.first_token(ONE)
    levels.produced(ONE, 3)
    clock.advance(4.0)
    levels.ended(ONE)
    assert levels.now().tpot_s == 2.0


def test_a_first_token_that_is_late_counts_before_it_is_there(levels: ServiceLevels, clock: ManualClock) -> None:
    levels.began(ONE, at=0.0)
    clock.advance(1.9)
    assert levels.now().num_requests == 0
    clock.advance(3.1)
    assert (levels.now().num_requests, levels.now().ttft_s) == (1, 5.0)


def test_an_answer_in_one_piece_misses_both_targets_alike(levels: ServiceLevels, clock: ManualClock) -> None:
    levels.began_whole(ONE, at=0.0)
    clock.advance(6.0)
    assert levels.now().num_requests == 0
    levels.ended(ONE)
    levels.produced(ONE, 11)
    now = levels.now()
    assert (now.ttft_s, now.tpot_s) == (pytest.approx(4.0), pytest.approx(0.2))


def test_what_was_dropped_and_what_is_not_known_counts_for_nothing(levels: ServiceLevels, clock: ManualClock) -> None:
    levels.began(ONE, at=0.0)
    clock.advance(5.0)
    levels.dropped(ONE)
    for call in (levels.first_token, levels.ended, levels.dropped):
        call(RequestId("other"))
    levels.produced(RequestId("other"), 3)
    assert levels.now() == Levels()


def test_what_is_older_than_the_window_is_over(levels: ServiceLevels, clock: ManualClock) -> None:
    levels.began(ONE, at=0.0)
    levels.first_token(ONE)
    clock.advance(10.1)
    assert levels.now().num_requests == 0


def test_of_several_processes_numbers_add_up_and_the_slowest_time_counts() -> None:
    one = Levels(num_requests=3, ttft_s=1.0, num_answers=2, tpot_s=0.2, fastest_tpot_s=0.1, num_prompts=0.5)
    idle = Levels()
    two = Levels(num_requests=1, ttft_s=2.0, num_answers=1, tpot_s=0.1, fastest_tpot_s=0.05, num_prompts=1.0)
    assert over_all((one, idle, two)) == Levels(
        num_requests=4, ttft_s=2.0, num_answers=3, tpot_s=0.2, fastest_tpot_s=0.05, num_prompts=1.5
    )
    assert over_all(()) == idle

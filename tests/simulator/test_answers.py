"""Blocks of answers told from later prompts, and named by the made-up workloads."""

import pytest
from traces import trace_of

from memserve.core.errors import ConfigError
from memserve.simulator.answers import with_answers
from memserve.simulator.trace import BLOCK_TOKENS, Trace, ideal_hit_ratio
from memserve.simulator.workloads import made_up, workload_names


def test_a_later_prompt_that_can_hold_the_answer_names_its_blocks() -> None:
    trace = with_answers(trace_of([(1, 2), (1, 2, 3, 4, 5), (9,)], output_tokens=2 * BLOCK_TOKENS + 7))
    assert [request.afterwards for request in trace.requests] == [(1, 2, 3, 4), (), ()]


def test_a_later_prompt_that_is_too_short_for_the_answer_names_nothing() -> None:
    trace = with_answers(trace_of([(1, 2), (1, 2, 3)], output_tokens=BLOCK_TOKENS + 1))
    assert {request.afterwards for request in trace.requests} == {()}


def test_an_endless_cache_holds_named_answers_too() -> None:
    plain = trace_of([(1, 2), (1, 2, 3, 4)], output_tokens=BLOCK_TOKENS)
    assert (ideal_hit_ratio(plain), ideal_hit_ratio(with_answers(plain))) == (2 / 6, 3 / 6)


@pytest.mark.parametrize("name", workload_names())
def test_a_made_up_workload_is_a_proper_trace_and_the_same_every_time(name: str) -> None:
    trace: Trace = made_up(name)
    assert trace == made_up(name) != made_up(name, seed=1)
    assert sorted(trace.requests, key=lambda request: request.at_s) == list(trace.requests)
    for request in trace.requests:
        assert len(request.blocks) == -(-request.prompt_tokens // BLOCK_TOKENS)
        assert len(request.afterwards) in (0, (request.prompt_tokens + request.output_tokens) // BLOCK_TOKENS)


def test_turns_of_a_made_up_conversation_begin_with_all_that_went_before() -> None:
    requests = made_up("multi-turn").requests
    last: dict[str, tuple[int, ...]] = {}
    for request in requests:
        before = last.get(request.session, ())
        assert request.blocks[: len(before)] == before
        last[request.session] = request.afterwards


def test_an_unknown_workload_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="choose one of prefill-heavy"):
        made_up("chat")

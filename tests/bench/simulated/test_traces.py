"""Sessions as traces: what is shared, what is chained, and what really was sent."""

from memserve.bench.serve.sessions import Session, Turn
from memserve.bench.simulated.traces import trace_of


def turn(*tokens: int, answer: int = 2) -> Turn:
    return Turn(text="", tokens=tokens, max_tokens=answer, think_s=1.5)


SESSIONS = (
    Session(name="a", arrival_s=0.0, turns=(turn(1, 2, 3, 4, 5), turn(6, 7, 8))),
    Session(name="b", arrival_s=4.0, turns=(turn(1, 2, 3, 4, 9), turn(6, 7, 8))),
)


def test_blocks_have_the_same_name_when_everything_up_to_their_end_is_the_same() -> None:
    first, again, other, _ = trace_of(SESSIONS, name="t", block_tokens=2).requests

    assert first.blocks[:2] == other.blocks[:2]
    assert first.blocks[2] != other.blocks[2]
    assert again.blocks[:2] == first.blocks[:2]
    assert again.prompt_tokens == 5 + 2 + 3


def test_a_turn_finds_the_answer_before_it_and_nobody_else_does() -> None:
    first, again, _, other = trace_of(SESSIONS, name="t", block_tokens=2).requests

    assert first.afterwards == again.blocks[:3]
    assert again.blocks[3] != other.blocks[3]


def test_a_turn_waits_for_the_one_before_it() -> None:
    requests = trace_of(SESSIONS, name="t", block_tokens=2).requests

    assert [(r.at_s, r.after, r.think_s) for r in requests[:2]] == [(0.0, None, 1.5), (0.0, 0, 1.5)]


def test_turns_that_were_really_sent_are_played_when_they_were() -> None:
    sent = {(1, 0): 2.0, (0, 0): 3.0, (0, 1): 9.0}

    requests = trace_of(SESSIONS, name="t", block_tokens=2, sent=sent).requests

    assert [(r.at_s, r.session, r.after) for r in requests] == [(2.0, "1", None), (3.0, "0", None), (9.0, "0", None)]

"""Sessions: seeded arrivals, turns in order, prompts that grow by what was said."""

from pathlib import Path

import pytest

from memserve.bench.serve.sessions import Line, Script, Words, make_sessions
from memserve.core.errors import ConfigError
from tests.fakes.model import TOKENIZER

WORDS = Words(TOKENIZER)
"""A byte is a token."""


def scripts(count: int = 20, turns: int = 3) -> list[Script]:
    lines = tuple(Line(text=f"question {number}", max_tokens=5) for number in range(turns))
    return [Script(name=f"s{number}", opening="rules ", lines=lines) for number in range(count)]


def test_the_same_seed_gives_the_same_sessions() -> None:
    first, second = (make_sessions(scripts(), words=WORDS, rate=0.5, seed=3, context=500) for _ in range(2))

    assert first == second
    assert first != make_sessions(scripts(), words=WORDS, rate=0.5, seed=4, context=500)


def test_a_rate_stretches_the_same_arrivals() -> None:
    slow = make_sessions(scripts(), words=WORDS, rate=0.1, seed=0, context=500)
    fast = make_sessions(scripts(), words=WORDS, rate=0.2, seed=0, context=500)

    assert [s.arrival_s for s in slow] == pytest.approx([2 * s.arrival_s for s in fast])
    assert [s.turns for s in slow] == [s.turns for s in fast]


def test_arrivals_come_at_the_rate_and_begin_at_zero() -> None:
    sessions = make_sessions(scripts(2000, turns=1), words=WORDS, rate=4.0, seed=0, context=500)

    assert sessions[0].arrival_s == 0
    assert 2000 / sessions[-1].arrival_s == pytest.approx(4.0, rel=0.1)


def test_a_prompt_is_all_that_came_before_it() -> None:
    (session,) = make_sessions(scripts(1), words=WORDS, rate=1.0, seed=0, context=500)

    opening, line = len("rules "), len("question 0")
    assert session.prompt_lengths == (opening + line, opening + 2 * line + 5, opening + 3 * line + 10)
    assert session.turns[0].think_s == 0
    assert all(turn.think_s > 0 for turn in session.turns[1:])


def test_a_marker_changes_every_prompt_from_its_first_token_on() -> None:
    plain, marked = (
        make_sessions(scripts(1), words=WORDS, rate=1.0, seed=0, context=500, marker=marker)[0] for marker in ("", "a1")
    )

    assert marked.turns[0].tokens[0] != plain.turns[0].tokens[0]
    assert marked.turns[1:] == plain.turns[1:]


def test_turns_beyond_the_context_are_left_out() -> None:
    (session,) = make_sessions(scripts(1, turns=9), words=WORDS, rate=1.0, seed=0, context=90)

    assert 1 <= len(session.turns) < 9
    assert session.prompt_lengths[-1] + session.turns[-1].max_tokens <= 90


def test_a_session_of_which_nothing_fits_is_named() -> None:
    with pytest.raises(ConfigError, match="no turn of session s0 fits into the model's 8 tokens"):
        make_sessions(scripts(1), words=WORDS, rate=1.0, seed=0, context=8)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_a_rate_must_be_positive(rate: float) -> None:
    with pytest.raises(ConfigError, match="give a positive number"):
        make_sessions(scripts(), words=WORDS, rate=rate, seed=0, context=500)


def test_cut_text_has_so_many_tokens() -> None:
    assert WORDS.cut("abcdefgh", count=3) == "abc"
    assert WORDS.cut("abcdefgh", first=2, count=3) == "cde"
    assert WORDS.cut("abc", count=3) == "abc"


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tokenizer\.json does not exist"):
        Words.of_model(tmp_path)

"""The report's numbers, its JSON names and its table."""

import msgspec
import pytest
from rich.console import Console

from memserve.demo.facts import Facts, Moved
from memserve.demo.player import Answer, Turn
from memserve.demo.report import DemoReport, make_report
from memserve.demo.table import render

FACTS = Facts(
    hbm_tokens=128,
    dram_tokens=256,
    computed_tokens=16,
    decode_computed_tokens=1,
    sent=Moved(num_blocks=3, num_tokens=300, num_bytes=3 << 20, paths=("shm",)),
    returned=Moved(num_blocks=1, num_tokens=48, num_bytes=1 << 20, paths=("shm",)),
)
PROMISED = {
    *("conversation", "turn", "prompt_tokens", "cached_tokens", "computed_tokens", "moved_blocks", "moved_bytes"),
    *("returned_blocks", "ttft_s", "jct_s"),
}


def answer(*token_ids: int, ttft_s: float = 1.0, text: str = "so") -> Answer:
    return Answer(text=text, token_ids=token_ids, prompt_tokens=400, ttft_s=ttft_s, jct_s=ttft_s + 3)


def turn(conversation: int, number: int, answered: Answer) -> Turn:
    return Turn(conversation=conversation, turn=number, request="r", messages=(), answer=answered)


def report(*, plain_ttft_s: float = 2.0, last: int = 5, facts: Facts | None = FACTS) -> DemoReport:
    turns = [turn(1, 1, answer(4, ttft_s=50.0)), turn(1, 2, answer(5, ttft_s=1.0))]
    plain = [answer(4, ttft_s=1.0), answer(last, ttft_s=plain_ttft_s)]
    return make_report(model="m", turns=turns, facts=[FACTS, facts], plain=plain)


def test_ratios_leave_out_the_first_turn_of_a_conversation() -> None:
    assert report().ttft_ratio == pytest.approx(1 / 2)
    assert report().jct_ratio == pytest.approx(4 / 5)


def test_one_differing_token_spoils_the_verdict() -> None:
    spoiled = report(last=6)
    assert (spoiled.tokens_identical, spoiled.num_identical) == (False, 1)


def test_token_ids_decide_where_both_told_them_and_text_where_not() -> None:
    assert not answer(1, text="a").same_tokens(answer(2, text="a"))
    assert answer(1, text="a").same_tokens(answer(text="a"))
    assert not answer(text="a").same_tokens(answer(text="b"))


def test_the_json_file_has_the_promised_names() -> None:
    data = msgspec.json.decode(msgspec.json.encode(report()))
    assert {"tokens_identical", "ttft_ratio", "jct_ratio", "turns"} <= data.keys()
    assert all(row.keys() >= PROMISED for row in data["turns"])


def test_a_turn_without_reports_is_written_as_unknown_not_as_zero() -> None:
    row = report(facts=None).turns[1]
    assert (row.cached_tokens, row.moved_blocks, row.returned_blocks) == (None, None, None)
    assert row.prompt_tokens == 400


def test_the_table_shows_every_turn_the_ratios_and_the_verdict() -> None:
    console = Console(width=160, record=True)
    with console.capture() as shown:
        console.print(render(report(last=6, facts=None)))
    text = shown.get()
    assert "1.1" in text
    assert "1.2" in text
    assert "TTFT 0.50, JCT 0.80" in text
    assert "tokens identical: 1 of 2" in text
    assert "?" in text

"""How conversations are read and chosen: from small files written here, and from the real collection."""

import json
from pathlib import Path
from typing import Any

import pytest

from memserve.bundled.conversations import Rule, choose_conversations, read_conversations, sharegpt_file
from memserve.core.errors import ConfigError

PROSE = "I would like to know what the house is for and who of you is going to live in it when the work is done today"


def entry(name: str, texts: list[str]) -> dict[str, Any]:
    spoken = [{"from": "human", "value": text} for text in texts]
    answers = [{"from": "gpt", "value": "Certainly."} for _ in texts]
    return {"id": name, "conversations": [turn for pair in zip(spoken, answers, strict=True) for turn in pair]}


def write(folder: Path, entries: list[dict[str, Any]], *, cut: int = 0) -> Path:
    text = json.dumps(entries)
    file = folder / "sharegpt.json"
    file.write_text(text[: len(text) - cut])
    return file


RULE = Rule(turns=2, min_words=5, max_words=40, min_total_words=10, max_total_words=80)


def test_reading_stops_at_the_cut_and_keeps_what_came_before(tmp_path: Path) -> None:
    file = write(tmp_path, [entry("a_0", [PROSE, PROSE]), entry("b_0", [PROSE])], cut=30)
    assert [conversation.name for conversation in read_conversations(file, 2)] == ["a_0"]


def test_a_piece_from_the_middle_of_a_conversation_is_left_out(tmp_path: Path) -> None:
    file = write(tmp_path, [entry("a_24", [PROSE]), entry("b_0", [PROSE])])
    assert [conversation.name for conversation in read_conversations(file, 2)] == ["b_0"]


def test_only_the_first_turns_are_kept(tmp_path: Path) -> None:
    file = write(tmp_path, [entry("a_0", [PROSE, f"{PROSE}?", "third"])])
    assert next(read_conversations(file, 2)).human == (PROSE, f"{PROSE}?")


@pytest.mark.parametrize(
    "texts",
    [
        [PROSE],
        [PROSE, "too few words"],
        [PROSE, f"{PROSE} {PROSE}"],
        ["el perro de mi vecino tiene una casa muy grande y bonita"] * 2,
        [PROSE, "the cat of the house is in the café with a friend"],
        [PROSE, "configuration_parameters = initialise(self.environment_variables) " * 8],
    ],
    ids=["one turn", "short turn", "long turn", "Spanish", "not ASCII", "code"],
)
def test_what_breaks_the_rule_is_passed_over(tmp_path: Path, texts: list[str]) -> None:
    file = write(tmp_path, [entry("bad_0", texts), entry("good_0", [PROSE, PROSE])])
    assert [conversation.name for conversation in choose_conversations(file, 1, RULE)] == ["good_0"]


def test_too_few_fitting_conversations_are_an_error_with_both_numbers(tmp_path: Path) -> None:
    file = write(tmp_path, [entry("a_0", [PROSE, PROSE])])
    with pytest.raises(ConfigError, match="holds 1 conversations that fit, 2 are needed"):
        choose_conversations(file, 2, RULE)


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*nowhere\.json"):
        choose_conversations(tmp_path / "nowhere.json", 1, RULE)


@pytest.mark.parametrize("content", ['{"no": "list"}', '[{"id": 5}]', "not json at all", '[{"id": "a_0"}]'])
def test_a_file_of_another_shape_never_gives_a_conversation(tmp_path: Path, content: str) -> None:
    file = tmp_path / "other.json"
    file.write_text(content)
    with pytest.raises(ConfigError):
        choose_conversations(file, 1, RULE)


def test_the_real_collection_gives_the_same_six_turns_each_time() -> None:
    first = choose_conversations(sharegpt_file(), 2, Rule())
    assert first == choose_conversations(sharegpt_file(), 2, Rule())
    assert [len(conversation.human) for conversation in first] == [6, 6]
    assert first[0].human[0] != first[1].human[0]

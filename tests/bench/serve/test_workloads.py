"""Workloads: what is drawn from each file, how it is cut, and what is said of a bad file."""

import json
from pathlib import Path

import pytest

from memserve.bench.serve.sessions import Words
from memserve.bench.serve.workloads import Workload, make_workload
from memserve.core.errors import ConfigError
from tests.fakes.model import TOKENIZER

WORDS = Words(TOKENIZER)
"""A byte is a token."""


def make(name: str, *, data: Path, sessions: int = 2, seed: int = 0) -> Workload:
    return make_workload(name, num_sessions=sessions, seed=seed, words=WORDS, data=data)


def chat(*texts: str) -> str:
    said = [{"from": ("human", "gpt")[at % 2], "value": text} for at, text in enumerate(texts)]
    return json.dumps({"id": "one", "conversations": said})


def write_react(folder: Path, *, steps: int = 2) -> None:
    (folder / "react").mkdir()
    (folder / "react" / "react_hotpotqa_prefix.txt").write_text("Solve a task.\n")
    step = {"i": 1, "thought": "think", "action": "Search[x]", "observation": "y" * 1000}
    runs = [{"question": f"q{number}", "steps": [step] * steps} for number in range(3)]
    (folder / "react" / "react_hotpotqa_trajectories.jsonl").write_text("\n".join(map(json.dumps, runs)))


def write_loogle(folder: Path) -> None:
    (folder / "loogle").mkdir()
    pairs = [{"Q": f"q{number}?", "A": "a" * 10} for number in range(7)]
    for name in ("longdep_qa", "shortdep_qa"):
        document = {"input": f"{name} text " * 100, "title": name, "qa_pairs": repr(pairs)}
        (folder / "loogle" / f"{name}.jsonl").write_text(json.dumps(document))


def test_every_react_call_begins_with_the_shared_prefix(tmp_path: Path) -> None:
    write_react(tmp_path)

    workload = make("react", data=tmp_path, sessions=3)

    assert {script.opening for script in workload.scripts} == {"Solve a task."}
    assert [len(script.lines) for script in workload.scripts] == [2, 2, 2]
    assert "Question: q" in workload.scripts[0].lines[0].text
    assert workload.scripts[0].lines[0].max_tokens == len(" think\nAction 1: Search[x]")
    assert len(workload.scripts[0].lines[1].text) < 300, "the observation is cut"


def test_three_sessions_read_the_same_passage_and_ask_other_questions(tmp_path: Path) -> None:
    write_loogle(tmp_path)

    workload = make("loogle", data=tmp_path, sessions=6)

    openings = [script.opening for script in workload.scripts]
    assert sorted(openings.count(opening) for opening in set(openings)) == [3, 3]
    same = [script for script in workload.scripts if script.opening == openings[0]]
    assert len({script.lines[0].text for script in same}) == 3


def test_more_sessions_than_documents_read_on_in_them(tmp_path: Path) -> None:
    write_loogle(tmp_path)

    assert len({script.opening for script in make("loogle", data=tmp_path, sessions=12).scripts}) == 4


def test_a_file_of_chats_keeps_its_turns_and_scales_its_answers(tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text(chat("hello", "x" * 80, "and?", "y" * 8000) + "\n")

    (script,) = make(str(file), data=tmp_path, sessions=1).scripts

    assert [line.max_tokens for line in script.lines] == [10, 128]
    assert "hello" in script.lines[0].text


def test_real_conversations_are_drawn_by_the_seed(tmp_path: Path) -> None:
    first, again, other = (make("sharegpt", data=tmp_path, seed=seed) for seed in (0, 0, 1))

    assert first == again
    assert first.scripts != other.scripts
    assert all(len(script.lines) > 1 for script in first.scripts)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot read .*own.jsonl: No such file"),
        (b"", "own.jsonl is empty"),
        (b'{"conversations": [{"from": "human", "val', "line 1 of .*own.jsonl is cut off or of another form"),
        (b'{"messages": []}', "line 1 of .*own.jsonl is cut off or of another form"),
        (b'{"conversations": []}', 'does not go "human", "gpt"'),
        (b'{"conversations": [{"from": "gpt", "value": "hi"}, {"from": "human", "value": "x"}]}', "does not go"),
        (b"\xff\xfe", "is not UTF-8 text"),
    ],
)
def test_a_bad_file_of_chats_is_told(tmp_path: Path, content: bytes | None, says: str) -> None:
    file = tmp_path / "own.jsonl"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(ConfigError, match=says):
        make(str(file), data=tmp_path)


def test_more_sessions_than_there_are_is_told_with_the_number(tmp_path: Path) -> None:
    write_react(tmp_path)

    with pytest.raises(ConfigError, match="5 sessions are asked for, and there are 3 runs of the react data"):
        make("react", data=tmp_path, sessions=5)


@pytest.mark.parametrize("name", ["react", "loogle"])
def test_data_that_is_not_there_names_the_option(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*--data"):
        make(name, data=tmp_path)


def test_an_unknown_workload_is_answered_with_the_known(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"choose one of sharegpt, loogle, react, or a \.jsonl file"):
        make("alpaca", data=tmp_path)

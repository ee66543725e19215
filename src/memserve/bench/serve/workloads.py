"""The workloads of `memserve bench serve`, made from real data: sharegpt, loogle, react, and a user's own file.

Owns how each file is read, which sessions are drawn from it, and how lengths are fitted to a machine where one core
prefills about 185 tokens a second and writes about 16: `scaling` of each workload says it in words. What is cut is
cut for every system alike, and the numbers of turns, of questions and of steps are those of the data.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from random import Random
from typing import TypeVar

import msgspec

from memserve.bench.serve.datasets import read_chats, read_documents, read_prefix, read_runs
from memserve.bench.serve.sessions import Line, Script, Words
from memserve.bundled.conversations import Dialogue, read_dialogues, sharegpt_file
from memserve.core.errors import ConfigError

Item = TypeVar("Item")

_SHAREGPT_POOL = 400
"""Conversations among which the seed draws: reading on would take longer than the sessions differ."""
_QUESTIONS, _SHARE_RATIO = 3, 3
_LEAST_ANSWER = 4
_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


class Lengths(msgspec.Struct, frozen=True, kw_only=True):
    """How far the data is cut to fit a machine, in tokens where nothing else is said."""

    max_prompt: int = 512
    """Of what a person says at one time."""
    answer_share: int = 8
    """Recorded answers of chats are taken to be so many times shorter."""
    max_answer: int = 128
    max_turns: int = 6
    document_share: int = 16
    """A passage is so small a part of its document."""
    max_observation: int = 256
    max_steps: int = 8


SMALL = Lengths()


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """Sessions to play; `make_sessions` gives them times."""

    name: str
    scaling: str
    """How the lengths were fitted to the machine, for the report."""
    scripts: tuple[Script, ...]


def make_workload(
    name: str, *, num_sessions: int, seed: int, words: Words, data: Path, lengths: Lengths = SMALL
) -> Workload:
    """`sharegpt`, `loogle`, `react` (from folders of these names under `data`), or a .jsonl file in the ShareGPT form.

    Raises ConfigError for data that is missing, empty, cut off or of another form, and for too few sessions in it.
    """
    if num_sessions < 1:
        raise ConfigError(f"{num_sessions} sessions are nothing to play: give at least 1")
    maker = _MAKERS.get(name)
    if maker is not None:
        return maker(num_sessions, Random(f"{name} {seed}"), words, data, lengths)  # noqa: S311 - a seeded draw
    if not name.endswith(".jsonl"):
        raise ConfigError(f'no workload "{name}": choose one of {", ".join(_MAKERS)}, or a .jsonl file')
    return _chats(
        name=Path(name).name,
        dialogues=read_chats(Path(name)),
        num_sessions=num_sessions,
        random=Random(f"file {seed}"),  # noqa: S311
        words=words,
        lengths=lengths,
    )


def _sharegpt(num_sessions: int, random: Random, words: Words, _data: Path, lengths: Lengths) -> Workload:
    several = (dialogue for dialogue in read_dialogues(sharegpt_file()) if len(dialogue.exchanges) > 1)
    pool = list(islice(several, max(_SHAREGPT_POOL, num_sessions)))
    return _chats(
        name="sharegpt", dialogues=pool, num_sessions=num_sessions, random=random, words=words, lengths=lengths
    )


def _chats(
    *, name: str, dialogues: Sequence[Dialogue], num_sessions: int, random: Random, words: Words, lengths: Lengths
) -> Workload:
    drawn = _draw(random, dialogues, num_sessions, f"conversations in {name}")
    scripts = tuple(
        Script(
            name=dialogue.name,
            opening=f"<|im_start|>system\n{_SYSTEM}<|im_end|>\n",
            lines=tuple(
                Line(text=_said(words.cut(exchange.human, count=lengths.max_prompt), begins=at == 0), max_tokens=answer)
                for at, exchange in enumerate(dialogue.exchanges[: lengths.max_turns])
                for answer in (_scaled(words.count(exchange.answer), lengths),)
            ),
        )
        for dialogue in drawn
    )
    scaling = (
        f"what people say cut to {lengths.max_prompt} tokens, recorded answers' lengths divided by "
        f"{lengths.answer_share} ({_LEAST_ANSWER} to {lengths.max_answer} tokens), at most {lengths.max_turns} turns"
    )
    return Workload(name=name, scaling=scaling, scripts=scripts)


def _loogle(num_sessions: int, random: Random, words: Words, data: Path, lengths: Lengths) -> Workload:
    """Each passage is read by `_SHARE_RATIO` sessions, which ask different questions."""
    documents = read_documents(data)
    random.shuffle(documents)
    scripts = []
    for number in range(num_sessions):
        reading, reader = divmod(number, _SHARE_RATIO)
        passage, at = divmod(reading, len(documents))
        document = documents[at]
        pairs = document.pairs
        asked = [pairs[(reader * _QUESTIONS + k) % len(pairs)] for k in range(_QUESTIONS)]
        size = words.count(document.text) // lengths.document_share
        text = words.cut(document.text, first=passage % lengths.document_share * size, count=size)
        lines = tuple(
            Line(text=_said(question, begins=at == 0), max_tokens=max(_LEAST_ANSWER, words.count(answer)))
            for at, (question, answer) in enumerate(asked)
        )
        opening = f"<|im_start|>system\nAnswer questions about this text.\n\n{text}<|im_end|>\n"
        scripts.append(Script(name=f"{document.title} {passage + 1}.{reader + 1}", opening=opening, lines=lines))
    random.shuffle(scripts)
    scaling = (
        f"of each document a passage of 1/{lengths.document_share} of its length, {_SHARE_RATIO} sessions to a passage,"
        f" {_QUESTIONS} questions a session, questions and lengths of answers as they are"
    )
    return Workload(name="loogle", scaling=scaling, scripts=tuple(scripts))


def _react(num_sessions: int, random: Random, words: Words, data: Path, lengths: Lengths) -> Workload:
    """One call a step, all behind the same instruction and examples."""
    prefix = read_prefix(data)
    scripts = []
    for run in _draw(random, read_runs(data), num_sessions, "runs of the react data"):
        lines, before = [], f"\n\nQuestion: {run.question}"
        for number, step in enumerate(run.steps[: lengths.max_steps], 1):
            answer = f" {step.thought}\nAction {number}: {step.action}"
            lines.append(Line(text=f"{before}\nThought {number}:", max_tokens=words.count(answer)))
            before = f"\nObservation {number}: {words.cut(step.observation, count=lengths.max_observation)}"
        scripts.append(Script(name=run.question, opening=prefix, lines=tuple(lines)))
    scaling = (
        "instruction, examples and lengths of answers as they are, "
        f"observations cut to {lengths.max_observation} tokens, at most {lengths.max_steps} steps"
    )
    return Workload(name="react", scaling=scaling, scripts=tuple(scripts))


def _said(text: str, *, begins: bool) -> str:
    """A chat's turn in the ChatML form, after the model's answer."""
    end = "" if begins else "<|im_end|>\n"
    return f"{end}<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


def _scaled(count: int, lengths: Lengths) -> int:
    return min(max(count // lengths.answer_share, _LEAST_ANSWER), lengths.max_answer)


def _draw(random: Random, among: Sequence[Item], count: int, what: str) -> list[Item]:
    if len(among) < count:
        raise ConfigError(f"{count} sessions are asked for, and there are {len(among)} {what}: give fewer --sessions")
    return random.sample(among, count)


_MAKERS: Mapping[str, Callable[[int, Random, Words, Path, Lengths], Workload]] = {
    "sharegpt": _sharegpt,
    "loogle": _loogle,
    "react": _react,
}

"""The files behind the workloads: LooGLE's documents, ReAct's runs, a user's chats.

Owns their forms and what is said of a file that is missing, empty, cut off or of another form. ShareGPT's own
collection is read by `bundled/conversations.py`.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from memserve.bundled.conversations import Dialogue, Exchange
from memserve.core.errors import ConfigError

Item = TypeVar("Item")

_NAME_DATA = "; name the folder that holds loogle/ and react/ with --data"


class Document(msgspec.Struct, frozen=True, kw_only=True):
    title: str
    text: str
    pairs: tuple[tuple[str, str], ...]
    """Questions and answers, at least one."""


class Step(msgspec.Struct, frozen=True):
    thought: str
    action: str
    observation: str


class ReactRun(msgspec.Struct, frozen=True):
    question: str
    steps: tuple[Step, ...]


class _LoogleLine(msgspec.Struct, frozen=True):
    input: str
    title: str
    qa_pairs: str


class _Said(msgspec.Struct, frozen=True):
    value: str
    who: str = msgspec.field(name="from")


class _ChatLine(msgspec.Struct, frozen=True):
    conversations: tuple[_Said, ...]
    id: str = ""


def read_documents(data: Path) -> list[Document]:
    """LooGLE's, those with questions about far-apart facts first. Raises ConfigError."""
    return [
        Document(title=line.title, text=line.input, pairs=_pairs(line))
        for name in ("longdep_qa", "shortdep_qa")
        for line in _lines(data / "loogle" / f"{name}.jsonl", _LoogleLine, hint=_NAME_DATA)
    ]


def read_prefix(data: Path) -> str:
    """Instruction and examples that every ReAct call begins with. Raises ConfigError."""
    return _text(data / "react" / "react_hotpotqa_prefix.txt", hint=_NAME_DATA).strip()


def read_runs(data: Path) -> list[ReactRun]:
    """Recorded runs with at least one step. Raises ConfigError."""
    file = data / "react" / "react_hotpotqa_trajectories.jsonl"
    return [run for run in _lines(file, ReactRun, hint=_NAME_DATA) if run.steps]


def read_chats(file: Path) -> list[Dialogue]:
    """A user's own, a ShareGPT conversation a line. Raises ConfigError."""
    return [_dialogue(line, number, file) for number, line in enumerate(_lines(file, _ChatLine), 1)]


def _dialogue(line: _ChatLine, number: int, file: Path) -> Dialogue:
    said = line.conversations
    exchanges = tuple(
        Exchange(human=asked.value, answer=told.value)
        for asked, told in zip(said[::2], said[1::2], strict=False)
        if (asked.who, told.who) == ("human", "gpt")
    )
    if not exchanges or len(exchanges) != len(said) // 2:
        raise ConfigError(
            f'line {number} of {file} does not go "human", "gpt", "human", "gpt", ... as the ShareGPT form does'
        )
    return Dialogue(name=line.id or str(number), exchanges=exchanges)


def _pairs(line: _LoogleLine) -> tuple[tuple[str, str], ...]:
    """LooGLE keeps them as the text of a Python list."""
    try:
        pairs = tuple((str(pair["Q"]), str(pair["A"])) for pair in ast.literal_eval(line.qa_pairs))
    except (ValueError, SyntaxError, TypeError, KeyError) as error:
        raise ConfigError(f'"{line.title}" has no questions of LooGLE\'s form: {error!r}') from error
    if not pairs:
        raise ConfigError(f'"{line.title}" has no questions')
    return pairs


def _lines(file: Path, kind: type[Item], *, hint: str = "") -> Iterator[Item]:
    lines = [line for line in _text(file, hint=hint).splitlines() if line.strip()]
    if not lines:
        raise ConfigError(f"{file} is empty")
    for number, line in enumerate(lines, 1):
        try:
            yield msgspec.json.decode(line, type=kind)
        except msgspec.DecodeError as error:
            raise ConfigError(f"line {number} of {file} is cut off or of another form: {error}") from error


def _text(file: Path, *, hint: str = "") -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}{hint}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not UTF-8 text: {error.reason} at byte {error.start}") from error

"""What a section of the report is: from a file of results to lines of Markdown and charts.

Owns how a file is read and what is said when it is missing, empty, cut off or of another form.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from memserve.bench.charts import Chart
from memserve.bench.records import Missing, Run
from memserve.core.errors import ConfigError

T = TypeVar("T")


class Drawing(msgspec.Struct, frozen=True, kw_only=True):
    """One file of panels."""

    name: str
    """Of the file, without its ending."""
    alt: str
    charts: tuple[Chart, ...]
    columns: int = 3


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """What a section shows: the drawings first, then the lines."""

    lines: tuple[str, ...]
    drawings: tuple[Drawing, ...] = ()


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """A place in the page and how it is filled."""

    name: str
    """As it stands in the page's markers."""
    file: str
    """Of results, in their folder."""
    command: str
    """That makes the file when run in the repository; said where there is none."""
    build: Callable[[Path], Block]
    """From the file, which exists. Raises ConfigError when it cannot be read."""


class ResultsMissing(ConfigError):
    """No benchmark has written this file yet; the message names the command that does."""


def build_section(section: Section, results: Path) -> Block:
    """Raises ResultsMissing, or ConfigError for a file that is not what it should be."""
    file = results / section.file
    if not file.exists():
        raise ResultsMissing(f"No results yet: `{section.command}` makes them.")
    return section.build(file)


def read_json(file: Path, kind: type[T]) -> T:
    """Raises ConfigError that says what is wrong with the file and what to do."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from error
    if not content.strip():
        raise ConfigError(f"{file} is empty: delete it and make it again")
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{file} is not the file of a {kind.__name__}: {error}") from error
    except msgspec.DecodeError as error:
        raise ConfigError(f"{file} is cut off or damaged ({error}): delete it and make it again") from error


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Markdown, header first; all but the first column are numbers."""
    head, *body = rows
    lines = [head, ["---", *("---:" for _ in head[1:])], *body]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def origin(run: Run, *, seed: int | None = None, more: str = "") -> list[str]:
    """What made these figures: a paragraph of its own."""
    parts = [
        f"`{run.command}`" if run.command else "the command was not recorded",
        *([f"seed {seed}"] if seed is not None else []),
        f"commit {run.commit or 'unknown'}",
        f"{run.machine.processor}, {run.machine.num_cores} cores",
        run.started,
        *([more] if more else []),
    ]
    return ["", f"*Made by {', '.join(parts)}.*"]


def missing_lines(missing: Sequence[Missing]) -> list[str]:
    return [f"- Missing: {each.system}: {each.reason}" for each in missing]

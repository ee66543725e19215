"""`memserve bench report`: every section built, drawn and put into the page.

Owns the order and what is said of a section that cannot be made: the page names the command that is missing or what is
wrong with the file, the others are made all the same.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from memserve.bench.charts import draw_charts
from memserve.bench.child import Say
from memserve.bench.report.operations import operation_sections
from memserve.bench.report.page import fill, names
from memserve.bench.report.section import Block, Drawing, ResultsMissing, Section, build_section
from memserve.bench.report.serving import serving_sections
from memserve.bench.report.simulated import simulated_sections
from memserve.bench.report.studies import study_sections
from memserve.core.errors import ConfigError

PAGE = "evaluation.md"
FIGURES = Path("figures", "evaluation")
"""Below the folder of the page."""


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the sections of the page."""

    filled: tuple[str, ...]
    missing: tuple[str, ...]
    """Without results so far."""
    broken: tuple[str, ...]
    """With a file that could not be used."""


def sections() -> list[Section]:
    """All there are."""
    return [*serving_sections(), *study_sections(), *operation_sections(), *simulated_sections()]


def make_page(results: Path, *, page: Path, out: Path, say: Say, known: Sequence[Section] = ()) -> Made:
    """Write `out`/evaluation.md and its figures from `page` and the files in `results`.

    Raises ConfigError when there is no such folder or page, or none can be written.
    """
    if not results.is_dir():
        raise ConfigError(f"there is no folder {results}: `make evaluation-quick` makes one with results")
    text = _read(page)
    wanted = set(names(text))
    blocks: dict[str, str] = {}
    filled, missing, broken = [], [], []
    for section in known or sections():
        if section.name not in wanted:
            continue
        try:
            blocks[section.name] = _shown(build_section(section, results), out)
            filled.append(section.name)
        except ResultsMissing as error:
            blocks[section.name] = f"*{error}*"
            missing.append(section.name)
        except ConfigError as error:
            say(f"{section.name}: {error}")
            blocks[section.name] = f"*Not shown: {_without_folder(str(error), results)}*"
            broken.append(section.name)
    _write(out / PAGE, fill(text, blocks))
    return Made(filled=tuple(filled), missing=tuple(missing), broken=tuple(broken))


def _shown(block: Block, out: Path) -> str:
    pictures = [_drawn(drawing, out) for drawing in block.drawings]
    return "\n".join(("", *pictures, *block.lines, ""))


def _drawn(drawing: Drawing, out: Path) -> str:
    file = FIGURES / f"{drawing.name}.svg"
    draw_charts(drawing.charts, out / file, columns=drawing.columns)
    return f"![{drawing.alt}]({file.as_posix()})\n"


def _without_folder(text: str, results: Path) -> str:
    return text.replace(f"{results}/", "")


def _read(page: Path) -> str:
    try:
        return page.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read the page {page}: {error.strerror}; name another one with --page") from error


def _write(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror}; name another folder with --out") from error

"""What the documents promise holds: commands exist, links lead somewhere, examples are the ones that are tested."""

import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from memserve.cli import main
from memserve.config import ServeConfig, convert

ROOT = Path(__file__).parents[2]
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
README = (ROOT / "README.md").read_text()
SETTINGS = (ROOT / "docs" / "settings.md").read_text()


def fenced(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_inside_the_repository_leads_to_a_file(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text())
    assert [target for target in targets if not (document.parent / target).exists()] == []


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\bmake ([a-z-]+)", README))))
def test_every_make_target_of_the_readme_exists(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


def test_every_option_of_the_settings_page_is_one_of_serve(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    known = capsys.readouterr().out
    options = set(re.findall(r"^\| `(--[a-z-]+)", SETTINGS, flags=re.MULTILINE))
    assert len(options) >= 9
    assert {option for option in options if option not in known} == set()


def test_every_setting_of_the_settings_page_exists() -> None:
    defaults = msgspec.to_builtins(ServeConfig())
    rows = re.findall(r"^\|[^|]*\| ([^|]*) \| ([^|]*) \|", SETTINGS, flags=re.MULTILINE)
    names = [name for cell, _ in rows for name in re.findall(r"`([a-z_]+\.[a-z_]+)`", cell)]
    assert len(names) >= 10
    for name in names:
        section, _, key = name.partition(".")
        assert key in defaults[section], name


def test_the_settings_files_of_the_settings_page_are_accepted() -> None:
    configs = [convert(tomllib.loads(text), ServeConfig, "settings.md") for text in fenced(SETTINGS, "toml")]
    assert (configs[0].cluster.prefill, configs[1].tenants[0].weight) == (2, 3)


def test_the_library_example_of_the_readme_is_the_one_that_is_tested() -> None:
    (example,) = fenced(README, "python")
    assert example == (ROOT / "examples" / "mempool.py").read_text()


def test_the_example_is_short() -> None:
    assert len((ROOT / "examples" / "mempool.py").read_text().splitlines()) <= 16

"""The house rules that a program can check."""

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 60
BANNED_NAMES = {"utils", "util", "common", "helpers", "helper", "misc"}
MARKERS = ("TO" + "DO", "FIX" + "ME", "X" * 3)
Function = ast.FunctionDef | ast.AsyncFunctionDef


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name]


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("source", SOURCES, ids=named)
def test_a_file_says_what_it_is_and_stays_in_bounds(source: Path) -> None:
    text = source.read_text()
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "no docstring"
    assert len(text.splitlines()) <= MAX_FILE_LINES
    assert source.stem not in BANNED_NAMES
    functions = [node for node in ast.walk(tree) if isinstance(node, Function)]
    long = [node.name for node in functions if (node.end_lineno or 0) - node.lineno + 1 > MAX_FUNCTION_LINES]
    assert long == []
    assert [node for node in ast.walk(tree) if isinstance(node, ast.Global)] == []


def test_no_marker_of_unfinished_work_is_left() -> None:
    python = [path for path in tracked() if path.suffix == ".py" and path.exists()]
    found = [named(path) for path in python if any(marker in path.read_text() for marker in MARKERS)]
    assert found == []


def test_no_path_of_somebodys_machine_is_left() -> None:
    places = ("/" + "work/", "/" + "root/", "/" + "home/")
    texts = [path for path in tracked() if path.suffix in {".py", ".md", ".toml", ""} and path.is_file()]
    found = [named(path) for path in texts if any(place in path.read_text(errors="replace") for place in places)]
    assert found == []

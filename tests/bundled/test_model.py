"""The bundled model's folder: made once, checked at each use, never half there. One real conversion for all."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from memserve.bundled.model import MODEL_NAME, bundled_model, cache_folder, find_source, is_whole
from memserve.core.errors import ConfigError

PROGRAM = "import sys, pathlib, memserve.bundled.model as m; print(m.bundled_model(pathlib.Path(sys.argv[1])))"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Filled by two processes that start at the same moment; half a gigabyte, so removed at the end."""
    folder = tmp_path_factory.mktemp("cache")
    command = [sys.executable, "-c", PROGRAM, str(folder)]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = {child.communicate(timeout=100)[0].strip() for child in children}
    assert answers == {str(folder / "models" / MODEL_NAME)}
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def model(cache: Path) -> Path:
    return bundled_model(cache)


def test_the_folder_holds_weights_tokenizer_and_chat_template(model: Path) -> None:
    names = {file.name for file in model.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= names
    assert "quantization_config" not in (model / "config.json").read_text()


def test_a_second_use_finds_the_folder_as_it_is(cache: Path, model: Path) -> None:
    before = (model / "model.safetensors").stat().st_mtime_ns
    assert bundled_model(cache) == model
    assert (model / "model.safetensors").stat().st_mtime_ns == before


def test_nothing_partial_lies_beside_the_folder(model: Path) -> None:
    assert [entry.name for entry in model.parent.iterdir() if entry.is_dir()] == [MODEL_NAME]


@pytest.mark.parametrize("damage", ["truncated weights", "missing tokenizer", "no manifest", "garbled manifest"])
def test_a_damaged_folder_is_recognised(tmp_path: Path, model: Path, damage: str) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in model.iterdir():
        (copy / file.name).symlink_to(file)
    assert is_whole(copy, find_source())
    match damage:
        case "truncated weights":
            (copy / "model.safetensors").unlink()
            (copy / "model.safetensors").write_bytes(b"\0" * 100)
        case "missing tokenizer":
            (copy / "tokenizer.json").unlink()
        case "no manifest":
            (copy / "memserve.json").unlink()
        case "garbled manifest":
            (copy / "memserve.json").unlink()
            (copy / "memserve.json").write_text('{"recipe": 1')
    assert not is_whole(copy, find_source())


def test_two_processes_at_once_leave_one_whole_folder(cache: Path) -> None:
    assert is_whole(cache / "models" / MODEL_NAME, find_source())


def test_a_cache_that_cannot_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file where a folder should be")
    with pytest.raises(ConfigError, match=r"cannot keep the bundled model in .*set XDG_CACHE_HOME"):
        bundled_model(tmp_path)


def test_the_cache_folder_follows_the_environment() -> None:
    assert cache_folder({"XDG_CACHE_HOME": "/var/cache"}) == Path("/var/cache/memserve")
    assert cache_folder({}) == Path.home() / ".cache" / "memserve"


def test_a_relative_cache_folder_is_ignored_as_its_standard_says() -> None:
    assert cache_folder({"XDG_CACHE_HOME": "relative"}) == cache_folder({})

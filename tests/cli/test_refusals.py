"""What is wrong is said in one line on stderr with exit status 2, before anything is started."""

import json
import socket
from pathlib import Path

import pytest
import typer

from memserve import __version__
from memserve.cli import main
from memserve.cli.refusals import refusals
from memserve.core.errors import ConfigError, MemserveError


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A folder that passes the checks; nothing ever loads it."""
    folder = tmp_path / "model"
    folder.mkdir()
    facts = {"num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 4, "hidden_size": 64}
    (folder / "config.json").write_text(json.dumps({**facts, "max_position_embeddings": 1024}))
    (folder / "model.safetensors").write_bytes(b"w" * 100)
    return str(folder)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def status_of(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return ended.value.code if isinstance(ended.value.code, int) else 0


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line."""
    assert status_of(*arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = shown.err.splitlines()
    assert len(lines) == 1, shown.err
    return lines[0]


def toml(folder: Path, text: str) -> str:
    file = folder / "settings.toml"
    file.write_text(text)
    return str(file)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[cluster\nprefill = 1", "is not valid TOML: Expected ']'"),
        ("[cluster]\nprefil = 1", "unknown field `prefil` - at `$.cluster`"),
        ("[cluster]\nprefill = 'one'", "Expected `int`, got `str` - at `$.cluster.prefill`"),
        ("[cluster]\ncaching = 'all'", "Invalid enum value 'all' - at `$.cluster.caching`"),
        ("[pool]\ndram = 'lots'", 'pool.dram = "lots" is not a size'),
    ],
    ids=["malformed", "unknown key", "wrong type", "wrong choice", "no size"],
)
def test_a_bad_settings_file_is_refused_with_the_place(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str], text: str, told: str
) -> None:
    assert told in refusal(capsys, "serve", model, "--dry-run", "--config", toml(tmp_path, text))


def test_a_missing_settings_file_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert "cannot read /nowhere.toml" in refusal(capsys, "serve", "--config", "/nowhere.toml")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--prefill", "0"), "--prefill 0 --decode 1: a disaggregated cluster needs at least one of each"),
        (("--colocated", "2", "--prefill", "0"), "--prefill 0 --decode 1: a disaggregated cluster needs"),
        (("--instances", "-2"), "--instances -2: the number of instances cannot be negative"),
        (("--colocated", "-1"), "--colocated -1: the number of instances cannot be negative"),
    ],
)
def test_numbers_that_make_no_cluster_are_refused(
    capsys: pytest.CaptureFixture[str], options: tuple[str, ...], told: str
) -> None:
    assert told in refusal(capsys, "serve", *options)


def test_an_unknown_policy_is_refused_with_those_there_are(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(capsys, "serve", model, "--policy", "guess")
    assert 'policy "guess" is not known' in line
    assert "prompt-tree" in line


def test_an_unknown_model_folder_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert 'model folder "./nowhere" does not exist' in refusal(capsys, "serve", "./nowhere")


def test_a_folder_without_weights_is_refused(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    (Path(model) / "model.safetensors").unlink()
    assert "weights" in refusal(capsys, "serve", model)


def test_a_port_in_use_is_refused_by_number(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refusal(capsys, "serve", model, "--port", str(port))
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in line


def test_tensor_parallelism_that_does_not_divide_the_heads_is_refused(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(capsys, "serve", model, "--dry-run", "--", "--tensor-parallel-size", "3")
    assert "--tensor-parallel-size 3 does not divide the model's 8 attention heads" in line


def test_engine_options_that_memserve_sets_are_refused(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "engine option --port is set by memserve" in refusal(
        capsys, "serve", model, "--dry-run", "--", "--port", "1"
    )


def test_engine_arguments_belong_to_commands_that_start_engines(capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(capsys, "demo", "--", "--max-model-len", "512")
    assert "only serve, instance, calibrate take engine arguments" in line


@pytest.mark.parametrize("options", [("--port", "70000"), ("--caching", "all"), ("--unknown",), ("--prefill", "one")])
def test_an_option_that_cannot_be_read_is_named(capsys: pytest.CaptureFixture[str], options: tuple[str, ...]) -> None:
    assert status_of("serve", *options) == 2
    assert options[0] in capsys.readouterr().err


def test_status_without_a_gateway_says_where_it_looked(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of("status", "--url", "http://127.0.0.1:9") == 1
    shown = capsys.readouterr()
    assert shown.err.startswith("memserve: no memserve gateway answers at http://127.0.0.1:9")


def test_a_file_that_cannot_be_written_is_refused_before_the_demo_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(capsys, "demo", "--json", str(tmp_path / "no" / "demo.json"))
    assert line.startswith("memserve: cannot write")


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of("--version") == 0
    assert capsys.readouterr().out == f"memserve {__version__}\n"


def test_a_dry_run_prints_one_command_per_instance_with_the_users_engine_arguments(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("serve", model, "--prefill", "2", "--decode", "1", "--dry-run", "--", "--max-model-len", "512")
    assert status_of(*arguments) == 0
    commands = [line for line in capsys.readouterr().out.splitlines() if " -m vllm." in line]
    assert len(commands) == 3
    assert all(command.endswith("--max-model-len 512") for command in commands)
    assert sum('"role":"prefill"' in command for command in commands) == 2


def test_an_option_can_come_from_the_environment(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMSERVE_SERVE_COLOCATED", "2")
    assert status_of("serve", model, "--dry-run") == 0
    assert capsys.readouterr().out.count('"role":"colocated"') == 2


@pytest.mark.parametrize(("error", "status"), [(ConfigError("no such disk"), 2), (MemserveError("gone"), 1)])
def test_an_error_of_a_task_among_others_is_one_line_too(
    error: MemserveError, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as ended, refusals():
        raise ExceptionGroup("tasks", [ExceptionGroup("tasks of one", [error])])
    assert (ended.value.exit_code, capsys.readouterr().err) == (status, f"memserve: {error}\n")

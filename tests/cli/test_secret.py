"""`memserve secret`, and what is refused where a secret is missing."""

from pathlib import Path

import pytest

from memserve.cli import main
from memserve.security.secret import Purpose, read_secret


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit):
        main(arguments)
    out = capsys.readouterr()
    return out.out + out.err


def test_a_secret_is_made_and_its_admin_token_shown_when_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "secret"
    assert said(capsys, "secret", str(file)) == (
        f"{file} is the secret of a new cluster: give every process --cluster-secret {file}\n"
    )
    token = said(capsys, "secret", str(file), "--admin-token").strip()
    assert token == read_secret(file).token(Purpose.ADMIN_HTTP)
    assert "choose another file" in said(capsys, "secret", str(file))


@pytest.mark.parametrize("option", [("--host", "0.0.0.0"), ("--manager", "0.0.0.0:0")])
def test_serve_listens_beyond_loopback_only_with_a_secret(
    option: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"{option[0]} 0.0.0.0 can be reached from other hosts" in said(capsys, "serve", *option)


@pytest.mark.parametrize("command", [("serve",), ("status",), ("drain", "a"), ("pool", "--join", "127.0.0.1:1")])
def test_a_missing_file_is_named_before_anything_is_done(
    command: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(tmp_path / "none")
    assert f"the cluster secret {missing} cannot be read" in said(capsys, *command, "--cluster-secret", missing)


def test_the_file_is_taken_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MEMSERVE_CLUSTER_SECRET", str(tmp_path / "none"))
    assert "none cannot be read" in said(capsys, "scale", "decode=1")


def test_a_pool_beyond_loopback_needs_a_secret(capsys: pytest.CaptureFixture[str]) -> None:
    assert "bind 10.0.0.7 can be reached from other hosts" in said(
        capsys, "pool", "--join", "127.0.0.1:1", "--bind", "10.0.0.7"
    )

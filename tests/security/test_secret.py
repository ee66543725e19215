"""The secret's file, what is derived from it, and that nothing shows it."""

from pathlib import Path

import msgspec
import pytest

from memserve.config import Network
from memserve.core.errors import ConfigError
from memserve.security.exposure import check_exposure, is_loopback
from memserve.security.secret import ClusterSecret, Purpose, make_secret, read_secret


def test_a_secret_that_was_made_is_read_again_and_is_its_owner_s_alone(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    make_secret(file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert read_secret(file).derive(Purpose.ADMIN_HTTP) == read_secret(str(file)).derive(Purpose.ADMIN_HTTP)
    with pytest.raises(ConfigError, match="File exists; choose another file"):
        make_secret(file)


def test_each_secret_and_each_purpose_has_keys_of_its_own() -> None:
    secrets = [ClusterSecret(text * 32) for text in (b"a", b"b")]
    assert len({secret.derive(purpose) for secret in secrets for purpose in Purpose}) == 2 * len(Purpose)


@pytest.mark.parametrize(
    ("content", "mode", "why"),
    [
        (None, 0, "cannot be read: No such file or directory; make one with memserve secret"),
        ("short\n", 0o600, r"has 5 characters: it needs 32 at least"),
        ("x" * 5000, 0o600, "longer than 4096 bytes"),
        ("x" * 40, 0o644, r"open to others \(mode 0644\): run chmod 600"),
        ("x" * 40, 0o620, r"open to others \(mode 0620\): run chmod 600"),
    ],
    ids=["missing", "short", "long", "readable by all", "writable by the group"],
)
def test_a_file_that_holds_no_safe_secret_is_refused(tmp_path: Path, content: str | None, mode: int, why: str) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_text(content)
        file.chmod(mode)
    with pytest.raises(ConfigError, match=why) as refused:
        read_secret(file)
    assert "xxxx" not in str(refused.value)


def test_nothing_shows_or_encodes_a_secret() -> None:
    secret = ClusterSecret(b"do not show me to anybody at all!")
    assert "show" not in f"{secret} {secret!r} {Network(secret=secret)!r}"
    with pytest.raises(TypeError):
        msgspec.json.encode(Network(secret=secret))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
def test_a_listener_on_loopback_needs_no_secret(host: str) -> None:
    assert is_loopback(host)
    check_exposure(host, "--host", has_secret=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "*", "10.0.0.7", "a-host"])
def test_a_listener_beyond_loopback_needs_one(host: str) -> None:
    check_exposure(host, "--host", has_secret=True)
    with pytest.raises(ConfigError, match="or listen on loopback"):
        check_exposure(host, "--host", has_secret=False)

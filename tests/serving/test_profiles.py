"""Which calibrated profile a cluster takes: the one named, else the one found for exactly this engine."""

from pathlib import Path

import msgspec
import pytest

from memserve.core.errors import ConfigError
from memserve.instance.setup import default_identity
from memserve.serving.profiles import profile_file, profile_for, profile_identity, save_profile
from memserve.simulator.profiles import load_profile

KV = default_identity(block_size=16, block_bytes=1024)
IDENTITY = profile_identity(KV, machine="2x test")
PROFILE = msgspec.structs.replace(load_profile("cpu-smollm2-135m"), identity=IDENTITY)


def test_what_was_saved_for_an_engine_is_found_for_it_and_for_no_other(tmp_path: Path) -> None:
    assert profile_for(IDENTITY, named="", cache=tmp_path) is None
    save_profile(PROFILE, profile_file(tmp_path, IDENTITY))
    assert profile_for(IDENTITY, named="", cache=tmp_path) == PROFILE
    other = profile_identity(msgspec.structs.replace(KV, dtype="bfloat16"), machine="2x test")
    assert profile_for(other, named="", cache=tmp_path) is None


def test_a_named_file_of_another_machine_is_refused_with_the_field_that_differs(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    save_profile(PROFILE, file)
    elsewhere = profile_identity(KV, machine="8x other")
    with pytest.raises(ConfigError, match='machine "2x test" instead of "8x other"'):
        profile_for(elsewhere, named=str(file), cache=tmp_path)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"identity": 1}', b"\xff\xfe"])
def test_a_file_that_is_no_profile_is_refused_by_its_name(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "broken.json"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"broken\.json"):
        profile_for(IDENTITY, named=str(file), cache=tmp_path)


def test_a_missing_file_and_a_folder_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.json"):
        profile_for(IDENTITY, named=str(tmp_path / "absent.json"), cache=tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot write the profile"):
        save_profile(PROFILE, tmp_path / "file" / "profile.json")

"""Cost profiles that come along, and rooflines."""

from pathlib import Path

import msgspec
import pytest

from memserve.core.errors import ConfigError
from memserve.scheduler.cost_model import CostModel, ProfileIdentity, encode_profile
from memserve.simulator.profiles import (
    A100_TP2,
    H100_TP2,
    H200_TP2,
    H800_TP2,
    LLAMA2_13B,
    Hardware,
    load_profile,
    profile_names,
    roofline,
)


@pytest.mark.parametrize(
    ("name", "hardware"), [("h800", H800_TP2), ("h100", H100_TP2), ("h200", H200_TP2), ("a100", A100_TP2)]
)
def test_a_shipped_roofline_is_what_its_stated_figures_give(name: str, hardware: Hardware) -> None:
    shipped = load_profile(f"{name}-llama2-13b-tp2")
    assert roofline(LLAMA2_13B, hardware, engine=shipped.identity.engine, source=shipped.source) == shipped


def test_llama2_13b_keeps_800_kib_of_kv_per_token() -> None:
    assert LLAMA2_13B.kv_bytes_per_token == 800 * 1024


def test_the_cpu_profile_gives_back_what_was_measured() -> None:
    cost = CostModel(load_profile("cpu-smollm2-135m"))
    assert 420 / cost.prefill_s(420, 0.0) == pytest.approx(420, rel=0.1)
    assert 1 / cost.decode_step_s(1, 100) == pytest.approx(15, rel=0.05)


@pytest.mark.parametrize("name", profile_names())
def test_a_shipped_profile_says_where_its_numbers_come_from(name: str) -> None:
    assert len(load_profile(name).source) > 50


def test_a_profile_is_read_from_a_file_and_one_of_another_model_is_refused(tmp_path: Path) -> None:
    profile = load_profile("cpu-smollm2-135m")
    file = tmp_path / "mine.json"
    file.write_bytes(encode_profile(profile))
    assert load_profile(str(file)) == profile
    other = msgspec.structs.replace(profile.identity, model="Llama3-8B")
    with pytest.raises(ConfigError, match='model "SmolLM2-135M-Instruct" instead of "Llama3-8B"'):
        load_profile(str(file), expected=ProfileIdentity(**msgspec.structs.asdict(other)))


def test_an_unknown_profile_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ConfigError, match="cpu-smollm2-135m"):
        load_profile("nowhere.json")


def test_weights_that_leave_no_room_for_kv_are_refused() -> None:
    with pytest.raises(ConfigError, match="no room for KV"):
        roofline(msgspec.structs.replace(LLAMA2_13B, num_parameters=1e12), H800_TP2, engine="e", source="s")

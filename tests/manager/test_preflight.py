"""What cannot work is refused with the numbers and a way out."""

from pathlib import Path

import msgspec
import pytest
from machines import CPU, GPU, SMALL, config, model_folder

from memserve.config import PoolSettings, ServeConfig, Watermarks
from memserve.core.enums import DataPath
from memserve.core.errors import ConfigError
from memserve.manager.machine import Machine
from memserve.manager.model_facts import model_facts
from memserve.manager.preflight import preflight


def on(machine: Machine, **changes: object) -> Machine:
    return msgspec.structs.replace(machine, **changes)


def test_sound_settings_pass_without_a_word(tmp_path: Path) -> None:
    assert preflight(config(model=model_folder(tmp_path)), machine=CPU) == ()


def test_a_folder_without_config_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        preflight(config(model=str(tmp_path)), machine=CPU)


def test_a_folder_without_weights_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="no weights"):
        preflight(config(model=str(tmp_path)), machine=CPU)


def test_a_broken_config_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json cannot be read"):
        preflight(config(model=str(tmp_path)), machine=CPU)


@pytest.mark.parametrize("model", ["/no/such/folder", "./here", "~/there", "a/b/c", "owner/na me"])
def test_a_path_that_does_not_exist_is_not_taken_for_a_hub_name(model: str) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        preflight(config(model=model), machine=CPU)


def test_a_hub_name_is_left_to_the_engine() -> None:
    assert preflight(config(model="owner/name"), machine=CPU) == ()


def test_a_hub_name_that_may_not_be_fetched_must_be_in_the_cache(tmp_path: Path) -> None:
    machine = on(CPU, environment={"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)})
    with pytest.raises(ConfigError, match=r"neither a folder here nor in the hub cache .*unset HF_HUB_OFFLINE"):
        preflight(config(model="owner/name"), machine=machine)
    (tmp_path / "hub" / "models--owner--name").mkdir(parents=True)
    assert preflight(config(model="owner/name"), machine=machine) == ()


@pytest.mark.parametrize("paths", [(), (DataPath.SHM, DataPath.SHM)])
def test_paths_for_kv_are_one_or_more_and_each_once(paths: tuple[DataPath, ...]) -> None:
    wanted = msgspec.structs.replace(config(model="owner/name"), pool=PoolSettings(paths=paths))
    with pytest.raises(ConfigError, match=r"pool\.paths"):
        preflight(wanted, machine=CPU)


def test_pools_must_fit_into_shared_memory() -> None:
    small = on(CPU, shared_memory_free=64 << 20)
    with pytest.raises(ConfigError, match=r"2 instances .* 2048MiB in /dev/shm, which has 64MiB free.*at most 32MiB"):
        preflight(config(model="owner/name"), machine=small)


def test_a_pool_must_hold_the_longest_request(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"one request of 8192 tokens at 46080 bytes each: set pool\.dram to at least 360MiB"
    ):
        preflight(config(model=model_folder(tmp_path), dram="359MiB"), machine=CPU)
    preflight(config(model=model_folder(tmp_path), dram="360MiB"), machine=CPU)


def test_a_shorter_longest_request_needs_a_smaller_pool(tmp_path: Path) -> None:
    wanted = config("--max-model-len", "1K", model=model_folder(tmp_path), dram="45MiB")
    assert preflight(wanted, machine=CPU) == ()


def test_a_pool_for_half_precision_needs_half_the_room(tmp_path: Path) -> None:
    wanted = config("--dtype", "bfloat16", model=model_folder(tmp_path), dram="180MiB")
    assert preflight(wanted, machine=CPU) == ()


def test_ranks_must_divide_the_heads(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"size 2 does not divide the model's 9 .* 3 KV heads: choose one of 1, 3, 9"):
        preflight(config("-tp", "2", model=model_folder(tmp_path)), machine=CPU)


def test_ranks_of_either_role_must_divide_the_heads(tmp_path: Path) -> None:
    folder = model_folder(tmp_path)
    for wanted in (config(model=folder, prefill_args=("-tp", "2")), config(model=folder, decode_args=("-tp", "2"))):
        with pytest.raises(ConfigError, match="size 2 does not divide"):
            preflight(wanted, machine=CPU)
    assert preflight(config(model=folder, decode_args=("-tp", "3")), machine=CPU) == ()


def test_more_instances_than_memory_are_refused_and_tight_memory_is_told(tmp_path: Path) -> None:
    folder = model_folder(tmp_path)
    with pytest.raises(ConfigError, match=r"2 instances need 4096MiB .* 3000MiB are available"):
        preflight(config(model=folder), machine=on(CPU, memory_available=3000 << 20))
    warnings = preflight(config(model=folder), machine=on(CPU, memory_available=5000 << 20))
    assert warnings == ("memory is tight: 2 instances take about 6496MiB, and 5000MiB are available",)


def test_every_rank_has_kv_memory_of_its_own(tmp_path: Path) -> None:
    wanted = config(model=model_folder(tmp_path), decode_args=("-tp", "3"))
    with pytest.raises(ConfigError, match=r"2 instances need 6144MiB .* tensor-parallel sizes"):
        preflight(wanted, machine=on(CPU, memory_available=6000 << 20))


def test_on_gpus_host_memory_must_hold_the_pools_only(tmp_path: Path) -> None:
    assert preflight(config(model=model_folder(tmp_path)), machine=on(GPU, memory_available=2 << 30)) == ()


def test_without_vllm_nothing_can_start() -> None:
    with pytest.raises(ConfigError, match="vLLM is not installed"):
        preflight(config(model="owner/name"), machine=on(CPU, engine="", engine_version=""))


@pytest.mark.parametrize(
    ("version", "warned"), [("0.32.1", False), ("0.32.0+cpu", False), ("0.33.0", True), ("0.3", True)]
)
def test_an_untested_version_is_told(version: str, warned: bool) -> None:
    warnings = preflight(config(model="owner/name"), machine=on(CPU, engine_version=version))
    assert bool(warnings) == warned


def test_kv_of_models_with_another_attention_is_not_guessed() -> None:
    assert model_facts({**SMALL, "kv_lora_rank": 512}, 0).kv_token_bytes("float32") is None
    assert model_facts({}, 0).kv_token_bytes("float32") is None


def test_the_text_part_of_a_multimodal_model_counts() -> None:
    facts = model_facts({"text_config": SMALL, "dtype": "bfloat16"}, 0)
    assert facts.kv_token_bytes("float32") == 46080


def test_automatic_precision_computes_full_precision_models_in_half() -> None:
    assert model_facts(SMALL, 0).kv_token_bytes("auto") == 23040
    assert model_facts({**SMALL, "dtype": "bfloat16"}, 0).kv_token_bytes("auto") == 23040


def test_this_machine_can_be_read() -> None:
    here = Machine.here()
    assert here.cores
    assert here.memory_available > 0


def with_pool(folder: Path, pool: PoolSettings) -> ServeConfig:
    return msgspec.structs.replace(config(model=model_folder(folder)), pool=pool)


def test_a_disk_tier_in_a_new_folder_passes(tmp_path: Path) -> None:
    wanted = with_pool(tmp_path, PoolSettings(disk=f"{tmp_path}/new/folder:1MiB"))
    assert preflight(wanted, machine=CPU) == ()
    assert not (tmp_path / "new").exists()


def test_a_disk_tier_beyond_the_disk_is_told_how_much_there_is(tmp_path: Path) -> None:
    wanted = with_pool(tmp_path, PoolSettings(disk=f"{tmp_path}:{1 << 60}"))
    with pytest.raises(ConfigError, match=r"set pool\.disk to at most \d+MiB each"):
        preflight(wanted, machine=CPU)


def test_a_disk_tier_under_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    wanted = with_pool(tmp_path, PoolSettings(disk=f"{tmp_path}/file/kv:1MiB"))
    with pytest.raises(ConfigError, match="no folder that may be written"):
        preflight(wanted, machine=CPU)


@pytest.mark.parametrize("disk", ["1GiB", ":1GiB", "/folder:", "/folder:much"])
def test_a_disk_tier_without_folder_or_size_is_refused(tmp_path: Path, disk: str) -> None:
    wanted = with_pool(tmp_path, PoolSettings(disk=disk))
    with pytest.raises(ConfigError, match=r"pool\.disk"):
        preflight(wanted, machine=CPU)


@pytest.mark.parametrize(("low", "high"), [(0.8, 0.7), (0.0, 0.5), (0.5, 1.0)])
def test_marks_that_are_not_in_order_are_refused(tmp_path: Path, low: float, high: float) -> None:
    wanted = with_pool(tmp_path, PoolSettings(marks=Watermarks(low=low, high=high)))
    with pytest.raises(ConfigError, match=r"pool\.marks"):
        preflight(wanted, machine=CPU)

"""Commands, environments and cores follow from settings and machine."""

import json
import shlex
from pathlib import Path
from typing import Any

import msgspec
import pytest
from machines import CPU, GPU, config

from memserve.config import ConnectorConfig, PoolSettings, ServeConfig
from memserve.core.enums import CachingMode, DataPath, Role
from memserve.core.errors import ConfigError
from memserve.manager.engine_args import given, value_of
from memserve.manager.launch_plan import LaunchPlan, LaunchSpec, moved, plan, served_model_name
from memserve.manager.machine import Machine


def planned(wanted: ServeConfig, machine: Machine = CPU) -> LaunchPlan:
    count = wanted.cluster.prefill + wanted.cluster.decode + wanted.cluster.colocated + wanted.cluster.instances
    return plan(
        wanted,
        manager_endpoint="tcp://127.0.0.1:7",
        ports=range(8100, 8100 + count),
        machine=machine,
        cluster="c1",
        log_folder=Path("/logs"),
    )


def first(wanted: ServeConfig, machine: Machine = CPU) -> LaunchSpec:
    return planned(wanted, machine).specs[0]


def transfer_config(spec: LaunchSpec) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(value_of(spec.argv, "--kv-transfer-config") or "")
    return found


def test_instances_are_named_by_role_and_number() -> None:
    specs = planned(config(prefill=1, decode=2)).specs
    assert [(s.instance, s.role, s.url) for s in specs] == [
        ("prefill-0", Role.PREFILL, "http://127.0.0.1:8100"),
        ("decode-0", Role.DECODE, "http://127.0.0.1:8101"),
        ("decode-1", Role.DECODE, "http://127.0.0.1:8102"),
    ]


def test_the_command_runs_vllms_server_as_a_module() -> None:
    argv = first(config()).argv
    assert argv[:3] == ("/v/bin/python", "-m", "vllm.entrypoints.openai.api_server")
    assert value_of(argv, "--model") == "/models/small"
    assert value_of(argv, "--host") == "127.0.0.1"
    assert value_of(argv, "--port") == "8100"
    assert given(argv, "--enable-prompt-tokens-details")


def test_paths_for_kv_reach_every_connector() -> None:
    wanted = msgspec.structs.replace(config(), pool=PoolSettings(paths=(DataPath.TCP,)))
    for spec in planned(wanted).specs:
        told = msgspec.convert(transfer_config(spec)["kv_connector_extra_config"], ConnectorConfig)
        assert told.paths == (DataPath.TCP,)


def test_the_connector_is_told_everything_it_needs() -> None:
    told = transfer_config(planned(config(dram="2GiB")).specs[1])
    assert told["kv_connector"] == "MemServeConnector"
    assert told["kv_connector_module_path"] == "memserve.engines.vllm.connector"
    assert (told["kv_role"], told["kv_load_failure_policy"]) == ("kv_both", "recompute")
    assert msgspec.convert(told["kv_connector_extra_config"], ConnectorConfig) == ConnectorConfig(
        instance="decode-0",
        role=Role.DECODE,
        dram="2GiB",
        cluster="c1",
        join="tcp://127.0.0.1:7",
        url="http://127.0.0.1:8101",
    )


def test_the_cpu_build_gets_the_settings_that_start_and_compute_fastest() -> None:
    spec = first(config())
    assert given(spec.argv, "--enforce-eager")
    assert value_of(spec.argv, "--dtype") == "float32"
    assert value_of(spec.argv, "--distributed-executor-backend") == "uni"
    assert value_of(spec.argv, "--block-size") == "32"
    assert spec.env == {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }


def test_tensor_parallel_instances_on_the_cpu_get_an_executor_with_processes() -> None:
    spec = first(config("-tp", "2"))
    assert value_of(spec.argv, "--distributed-executor-backend") == "mp"
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in spec.env


def test_what_the_user_gives_is_not_given_twice_and_comes_last() -> None:
    own = ("--dtype=bfloat16", "--block_size", "64", "--served-model-name", "mine", "--no-enforce-eager")
    spec = first(config(*own))
    assert spec.argv[-len(own) :] == own
    assert "float32" not in spec.argv
    assert spec.argv.count("--block-size") == 0
    assert "--enforce-eager" not in spec.argv
    assert value_of(spec.argv, "--served-model-name") == "mine"


def test_the_users_environment_wins() -> None:
    machine = msgspec.structs.replace(CPU, environment={"VLLM_CPU_KVCACHE_SPACE": "4", "HF_HUB_OFFLINE": "0"})
    env = first(config(), machine).env
    assert "VLLM_CPU_KVCACHE_SPACE" not in env
    assert "HF_HUB_OFFLINE" not in env


def test_a_model_from_the_hub_may_be_fetched() -> None:
    spec = first(config(model="owner/name"))
    assert "HF_HUB_OFFLINE" not in spec.env
    assert value_of(spec.argv, "--served-model-name") == "owner/name"


def test_clients_see_the_folders_own_name() -> None:
    assert served_model_name(config(model="/models/small")) == "small"


ON, OFF = "--enable-prefix-caching", "--no-enable-prefix-caching"


@pytest.mark.parametrize(
    ("caching", "prefill", "decode"),
    [
        (CachingMode.BASIC, OFF, OFF),
        (CachingMode.PREFILL, ON, OFF),
        (CachingMode.BOTH, ON, ON),
        (CachingMode.RETURN, ON, ON),
    ],
)
def test_the_engines_own_cache_follows_the_caching_mode(caching: CachingMode, prefill: str, decode: str) -> None:
    specs = planned(config(caching=caching)).specs
    assert [next(a for a in s.argv if a in (ON, OFF)) for s in specs] == [prefill, decode]


def test_a_colocated_instance_caches_in_mode_prefill() -> None:
    assert ON in first(config(caching=CachingMode.PREFILL, colocated=1)).argv


def test_an_engine_gets_time_to_clean_up_unless_the_user_says_how_much() -> None:
    argv = first(config()).argv
    assert argv[argv.index("--shutdown-timeout") + 1] == "3"
    assert first(config("--shutdown-timeout", "9")).argv.count("--shutdown-timeout") == 1


@pytest.mark.parametrize(("count", "cores"), [(1, [(0,)]), (2, [(0,), (1,)]), (3, [(), (), ()])])
def test_instances_get_cores_of_their_own_while_there_are_enough(count: int, cores: list[tuple[int, ...]]) -> None:
    assert [s.cores for s in planned(config(colocated=count)).specs] == cores


def test_threads_and_ranks_count_when_cores_are_shared_out() -> None:
    machine = msgspec.structs.replace(CPU, cores=tuple(range(8)), environment={"OMP_NUM_THREADS": "2"})
    assert [s.cores for s in planned(config("-tp", "2", colocated=2), machine).specs] == [(0, 1, 2, 3), (4, 5, 6, 7)]


def test_each_role_gets_its_own_engine_arguments_after_those_of_all() -> None:
    wanted = config("-tp", "1", prefill_args=("--max-num-seqs", "4"), decode_args=("-tp", "2"))
    prefill, decode = planned(wanted).specs
    assert prefill.argv[-4:] == ("-tp", "1", "--max-num-seqs", "4")
    assert decode.argv[-4:] == ("-tp", "1", "-tp", "2")
    executors = [value_of(spec.argv, "--distributed-executor-backend") for spec in (prefill, decode)]
    assert executors == ["uni", "mp"]
    assert ["VLLM_ENABLE_V1_MULTIPROCESSING" in spec.env for spec in (prefill, decode)] == [True, False]


def test_cores_and_devices_follow_each_roles_number_of_ranks() -> None:
    wanted = config(prefill_args=("-tp", "2"), prefill=1, decode=2)
    machine = msgspec.structs.replace(CPU, cores=(0, 1, 2, 3))
    assert [s.cores for s in planned(wanted, machine).specs] == [(0, 1), (2,), (3,)]
    assert [s.env["CUDA_VISIBLE_DEVICES"] for s in planned(wanted, GPU).specs] == ["0,1", "2", "3"]
    few = msgspec.structs.replace(GPU, devices=("0", "1"))
    shares = {value_of(s.argv, "--gpu-memory-utilization") for s in planned(wanted, few).specs}
    assert shares == {"0.45"}


@pytest.mark.parametrize("option", ["--dtype=bfloat16", "--block-size=64", "--kv-cache-dtype=fp8"])
def test_roles_that_could_not_share_kv_are_refused(option: str) -> None:
    with pytest.raises(ConfigError, match="cannot share KV: give it once"):
        planned(config(decode_args=(option,)))
    assert planned(config(option))


def test_what_clients_see_cannot_differ_by_role() -> None:
    with pytest.raises(ConfigError, match=r"--served-model-name cannot differ .* from engine.prefill to engine"):
        planned(config(prefill_args=("--served-model-name", "mine")))


def test_arguments_for_roles_that_are_not_there_are_refused() -> None:
    with pytest.raises(ConfigError, match="but there are none"):
        planned(config(decode_args=("-tp", "2"), colocated=2))


def test_instances_get_gpus_of_their_own() -> None:
    specs = planned(config("-tp", "2"), GPU).specs
    assert [s.env["CUDA_VISIBLE_DEVICES"] for s in specs] == ["0,1", "2,3"]
    assert not given(specs[0].argv, "--gpu-memory-utilization")
    assert specs[0].cores == ()


def test_instances_that_share_a_gpu_share_its_memory() -> None:
    one = msgspec.structs.replace(GPU, devices=("0",))
    spec = first(config(), one)
    assert spec.env["CUDA_VISIBLE_DEVICES"] == "0"
    assert value_of(spec.argv, "--gpu-memory-utilization") == "0.45"


@pytest.mark.parametrize("option", ["--port=1", "--host", "--kv_transfer_config", "--model"])
def test_options_that_memserve_sets_itself_are_refused(option: str) -> None:
    for wanted in (config(option), config(decode_args=(option,))):
        with pytest.raises(ConfigError, match="is set by memserve"):
            planned(wanted)


@pytest.mark.parametrize("option", ["--ssl-certfile", "--ssl_keyfile=/k", "--ssl-ca-certs"])
def test_an_instance_s_tls_is_not_the_operator_s_to_set(option: str) -> None:
    with pytest.raises(ConfigError, match="clients to the gateway with --ssl-certfile of memserve serve"):
        planned(config(option))


def test_with_a_secret_instances_are_known_by_https_urls_wherever_they_move() -> None:
    plain = config()
    wanted = msgspec.structs.replace(plain, cluster=msgspec.structs.replace(plain.cluster, secret="/s"))
    here = first(wanted)
    there = moved(here, host="fd00::7", port=9000, python="/there/python")
    told = [transfer_config(spec)["kv_connector_extra_config"]["url"] for spec in (here, there)]
    assert [here.url, there.url] == told == ["https://127.0.0.1:8100", "https://[fd00::7]:9000"]


def test_no_model_and_too_few_ports_are_refused() -> None:
    with pytest.raises(ConfigError, match="no model"):
        planned(config(model=""))
    with pytest.raises(ConfigError, match="2 instances need as many ports, 1 are given"):
        plan(config(), manager_endpoint="", ports=[1], machine=CPU, cluster="c", log_folder=Path("/logs"))


def test_shared_memory_of_one_instance_is_not_taken_for_anothers() -> None:
    prefixes = [s.shared_memory for s in planned(config(colocated=11)).specs]
    assert not [(a, b) for a in prefixes for b in prefixes if a != b and b.startswith(a)]


def test_a_printed_plan_can_be_pasted_into_a_shell() -> None:
    spec = first(config("--chat-template", "it's {{ a }}"))
    words = shlex.split(spec.shell())
    assert words[len(spec.env) :] == list(spec.argv)
    assert words[: len(spec.env)] == [f"{k}={v}" for k, v in sorted(spec.env.items())]


def test_every_instance_is_in_the_printed_plan() -> None:
    text = planned(config()).shell()
    assert "# prefill-0: http://127.0.0.1:8100, log /logs/prefill-0.log" in text
    assert "# decode-0: http://127.0.0.1:8101" in text


def test_instances_of_any_role_are_planned_beside_others() -> None:
    specs = planned(config(prefill=1, decode=1, colocated=1, instances=2)).specs
    assert [(s.instance, s.role) for s in specs] == [
        ("prefill-0", Role.PREFILL),
        ("decode-0", Role.DECODE),
        ("colocated-0", Role.COLOCATED),
        ("flexible-0", Role.FLEXIBLE),
        ("flexible-1", Role.FLEXIBLE),
    ]


def test_an_instance_that_moves_to_another_host_listens_there_and_leaves_devices_to_it() -> None:
    here = first(config(), GPU)
    there = moved(here, host="10.0.0.7", port=9000, python="/there/python")
    assert (there.url, there.cores) == ("http://10.0.0.7:9000", ())
    assert there.argv[0] == "/there/python"
    assert [value_of(there.argv, name) for name in ("--host", "--port")] == ["10.0.0.7", "9000"]
    told = transfer_config(there)["kv_connector_extra_config"]
    assert (told["bind"], told["url"]) == ("10.0.0.7", there.url)
    assert told["join"] == transfer_config(here)["kv_connector_extra_config"]["join"]
    assert "CUDA_VISIBLE_DEVICES" not in there.env
    assert moved(there, host="10.0.0.8", port=9001, python="/there/python").url == "http://10.0.0.8:9001"

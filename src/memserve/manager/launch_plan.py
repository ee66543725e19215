"""The exact command, environment and cores of each instance of one machine, as data.

Pure: the same settings and the same machine give the same plan, so `--dry-run` prints what would run.
Starts nothing (child.py) and checks nothing against the machine (preflight.py).
"""

import itertools
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from memserve.config import ConnectorConfig, ServeConfig
from memserve.core.enums import CachingMode, Role
from memserve.core.errors import ConfigError
from memserve.core.etcd_address import is_etcd
from memserve.core.http_address import base_url
from memserve.core.ids import InstanceId
from memserve.manager.engine_args import given, value_of
from memserve.manager.machine import Machine
from memserve.manager.role_args import check_role_args, role_args, tensor_parallel_size

HOST = "127.0.0.1"
"""Instances started here are reached through the gateway only."""

_SHUTDOWN_S = "3"
"""With vLLM's own default, 0, it kills its engine at once, and the engine's files stay in /dev/shm."""
_SERVER = "vllm.entrypoints.openai.api_server"
_CONNECTOR = "--kv-transfer-config"
_RESERVED = ("--model", "--host", "--port", _CONNECTOR)
_GPU_SHARE = 0.9
_TLS = ("--ssl-certfile", "--ssl-keyfile", "--ssl-ca-certs", "--ssl-cert-reqs", "--enable-ssl-refresh")


class ProcessSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One child process. Paths and URLs as text, so that a plan can be printed or stored."""

    instance: InstanceId
    """Its name; of whatever else is supervised here as well."""
    argv: tuple[str, ...]
    env: dict[str, str] = {}
    """On top of the environment of the process that launches."""
    cores: tuple[int, ...] = ()
    """The child may run on these only; () leaves it to the kernel."""
    log: str
    """File that takes its output."""
    shared_memory: str = ""
    """Every file whose path begins so belongs to the child and goes when it ends."""
    outlives: bool = False
    """It goes on when whoever started it is gone: others know of it."""


class LaunchSpec(ProcessSpec, frozen=True, kw_only=True):
    """An instance."""

    role: Role
    url: str
    first_rank: int = 0
    """Ranks are numbered through the machine; each has a device, or its share of the cores."""
    num_ranks: int = 1

    def shell(self) -> str:
        """A line to paste into a shell; only the pinning to cores and the log are left out."""
        settings = [f"{name}={shlex.quote(value)}" for name, value in sorted(self.env.items())]
        return " ".join([*settings, shlex.join(self.argv)])


class LaunchPlan(msgspec.Struct, frozen=True, kw_only=True):
    specs: tuple[LaunchSpec, ...]
    machine: Machine
    """Whose interpreter and environment they run with."""

    def shell(self) -> str:
        """One paragraph per instance."""
        return "\n\n".join(f"# {spec.instance}: {spec.url}, log {spec.log}\n{spec.shell()}" for spec in self.specs)


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where instances are started, and what they join."""

    manager_endpoint: str
    machine: Machine
    cluster: str
    log_folder: Path
    host: str = HOST
    """Address on which they listen."""


def num_instances(config: ServeConfig) -> int:
    return sum(count for _, count in _roles(config))


def num_ranks(config: ServeConfig) -> int:
    """Worker processes of all instances together. Raises ConfigError on a tensor-parallel size that is no number."""
    return sum(tensor_parallel_size(config, role) for _, role in _names(config))


def served_model_name(config: ServeConfig) -> str:
    """What clients put into "model": as the user said, else a folder's own name, else the hub name."""
    wanted = value_of(config.engine.args, "--served-model-name")
    return wanted or (Path(config.model).name if _is_local(config) else config.model)


def plan(
    config: ServeConfig,
    *,
    manager_endpoint: str,
    ports: Sequence[int],
    machine: Machine,
    cluster: str,
    log_folder: Path,
) -> LaunchPlan:
    """One spec per instance, named role-number. `config.model` is an absolute folder or a hub name.

    Raises ConfigError when the settings make no cluster or name an option that memserve sets itself.
    """
    config.cluster.check()
    _check_args(config)
    if len(ports) != num_instances(config):
        raise ConfigError(f"{num_instances(config)} instances need as many ports, {len(ports)} are given")
    place = Place(manager_endpoint=manager_endpoint, machine=machine, cluster=cluster, log_folder=log_folder)
    ranks = [tensor_parallel_size(config, role) for _, role in _names(config)]
    firsts = itertools.accumulate(ranks, initial=0)
    specs = [
        _spec(config, place, name=name, role=role, port=port, first_rank=first, all_ranks=sum(ranks))
        for (name, role), port, first in zip(_names(config), ports, firsts, strict=False)
    ]
    return LaunchPlan(specs=tuple(specs), machine=machine)


def moved(spec: LaunchSpec, *, host: str, port: int, python: str) -> LaunchSpec:
    """The same instance on another host, listening there; which cores and devices it has is that host's to say."""
    url = base_url(host, port, scheme="https" if spec.url.startswith("https:") else "http")
    argv = [python, *spec.argv[1:]]
    for option, value in (("--host", host), ("--port", str(port))):
        argv[argv.index(option) + 1] = value
    if _CONNECTOR in argv:
        at = argv.index(_CONNECTOR) + 1
        config = msgspec.json.decode(argv[at])
        config["kv_connector_extra_config"] |= {"bind": host, "url": url}
        argv[at] = msgspec.json.encode(config).decode()
    env = {name: value for name, value in spec.env.items() if name != "CUDA_VISIBLE_DEVICES"}
    return msgspec.structs.replace(spec, url=url, argv=tuple(argv), env=env, cores=())


def one_more(
    config: ServeConfig, place: Place, *, name: InstanceId, role: Role, port: int, beside: Sequence[LaunchSpec]
) -> LaunchSpec:
    """An instance that comes to those that run on this machine already, on devices or cores that are free there.

    Raises ConfigError for an option that memserve sets itself.
    """
    _check_args(config)
    count = tensor_parallel_size(config, role)
    taken = {rank for spec in beside for rank in range(spec.first_rank, spec.first_rank + spec.num_ranks)}
    first = next(at for at in itertools.count() if taken.isdisjoint(range(at, at + count)))
    end = max([first + count, *(rank + 1 for rank in taken)])
    return _spec(config, place, name=name, role=role, port=port, first_rank=first, all_ranks=end)


def _check_args(config: ServeConfig) -> None:
    check_role_args(config)
    for name in _RESERVED:
        if any(given(role_args(config, role), name) for role in Role):
            raise ConfigError(f"engine option {name} is set by memserve for each instance: leave it out")
    for name in _TLS:
        if any(given(role_args(config, role), name) for role in Role):
            raise ConfigError(
                f"engine option {name}: leave it out; with --cluster-secret, instances talk to their gateway by TLS, "
                "and clients to the gateway with --ssl-certfile of memserve serve"
            )
    if not config.model:
        raise ConfigError("no model is set: give --model with a folder or a name")


def _spec(
    config: ServeConfig, place: Place, *, name: InstanceId, role: Role, port: int, first_rank: int, all_ranks: int
) -> LaunchSpec:
    connector = ConnectorConfig(
        instance=name,
        role=role,
        caching=config.cluster.caching,
        transfer=config.cluster.transfer,
        pieces=config.cluster.pieces,
        dram=config.pool.dram,
        disk=config.pool.disk,
        marks=config.pool.marks,
        paths=config.pool.paths,
        keep=config.pool.keep,
        tls=config.pool.tls,
        secret=config.cluster.secret,
        plain_nixl=config.pool.plain_nixl,
        bind=place.host,
        cluster=place.cluster,
        join=place.manager_endpoint,
        url=base_url(place.host, port, scheme="https" if config.cluster.secret else "http"),
    )
    ranks = range(first_rank, first_rank + tensor_parallel_size(config, role))
    return LaunchSpec(
        instance=name,
        role=role,
        url=connector.url,
        argv=_argv(config, place, connector, port),
        env=_env(config, place.machine, ranks),
        cores=_cores(ranks, place.machine, all_ranks=all_ranks),
        log=str(place.log_folder / f"{name}.log"),
        shared_memory=f"/dev/shm/memserve-{place.cluster}-{name}-",  # noqa: S108 - POSIX shared memory lies here
        first_rank=first_rank,
        num_ranks=len(ranks),
        outlives=is_etcd(place.manager_endpoint),
    )


def _roles(config: ServeConfig) -> tuple[tuple[Role, int], ...]:
    wanted = config.cluster
    return (
        (Role.PREFILL, wanted.prefill),
        (Role.DECODE, wanted.decode),
        (Role.COLOCATED, wanted.colocated),
        (Role.FLEXIBLE, wanted.instances),
    )


def _names(config: ServeConfig) -> Iterator[tuple[InstanceId, Role]]:
    for role, count in _roles(config):
        for number in range(count):
            yield InstanceId(f"{role}-{number}"), role


def _is_local(config: ServeConfig) -> bool:
    return Path(config.model).is_absolute()


def _argv(config: ServeConfig, place: Place, connector: ConnectorConfig, port: int) -> tuple[str, ...]:
    machine = place.machine
    args = role_args(config, connector.role)
    argv = [machine.python, "-m", _SERVER, "--model", config.model, "--host", place.host, "--port", str(port)]
    if not given(args, "--served-model-name"):
        argv += ["--served-model-name", served_model_name(config)]
    argv += ["--enable-prompt-tokens-details", _CONNECTOR, _kv_transfer_config(connector)]
    if not given(args, "--enable-prefix-caching", "--no-enable-prefix-caching"):
        argv.append(_prefix_caching(connector))
    if not given(args, "--shutdown-timeout"):
        argv += ["--shutdown-timeout", _SHUTDOWN_S]
    argv += _cpu_args(config, connector.role) if machine.computes_on_cpu else _gpu_args(config, connector.role, machine)
    return (*argv, *args)


def _kv_transfer_config(connector: ConnectorConfig) -> str:
    config = {
        "kv_connector": "MemServeConnector",
        "kv_connector_module_path": "memserve.engines.vllm.connector",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": connector,
    }
    return msgspec.json.encode(config).decode()


def _prefix_caching(connector: ConnectorConfig) -> str:
    """The milestones of arXiv 2406.17565: PD-Basic caches nowhere, PD-Caching-1 only where prefill runs."""
    caching = connector.caching
    off = caching is CachingMode.BASIC or (caching is CachingMode.PREFILL and connector.role is Role.DECODE)
    return "--no-enable-prefix-caching" if off else "--enable-prefix-caching"


def _cpu_args(config: ServeConfig, role: Role) -> list[str]:
    """What starts fastest and computes fastest on vLLM's CPU backend; each gives way to the user's own."""
    args = role_args(config, role)
    executor = "uni" if tensor_parallel_size(config, role) == 1 else "mp"
    defaults = {"--dtype": "float32", "--distributed-executor-backend": executor, "--block-size": "32"}
    chosen = [part for name, value in defaults.items() if not given(args, name) for part in (name, value)]
    eager = [] if given(args, "--enforce-eager", "--no-enforce-eager") else ["--enforce-eager"]
    return [*eager, *chosen]


def _gpu_args(config: ServeConfig, role: Role, machine: Machine) -> list[str]:
    """Instances that must share a GPU share its memory evenly."""
    wanted = num_ranks(config)
    is_given = given(role_args(config, role), "--gpu-memory-utilization")
    if wanted <= len(machine.devices) or not machine.devices or is_given:
        return []
    on_one = -(-wanted // len(machine.devices))
    return ["--gpu-memory-utilization", f"{_GPU_SHARE / on_one:.2f}"]


def _env(config: ServeConfig, machine: Machine, ranks: range) -> dict[str, str]:
    env = {}
    if _is_local(config):
        env["HF_HUB_OFFLINE"] = "1"
    if machine.computes_on_cpu:
        env |= {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        if len(ranks) == 1:
            env["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    env = {name: value for name, value in env.items() if name not in machine.environment}
    count = len(machine.devices)
    if count >= len(ranks):
        env["CUDA_VISIBLE_DEVICES"] = ",".join(machine.devices[rank % count] for rank in ranks)
    return env


def _cores(ranks: range, machine: Machine, *, all_ranks: int) -> tuple[int, ...]:
    """Own cores when there are enough for all; otherwise the kernel shares them out better."""
    threads = machine.environment.get("OMP_NUM_THREADS", "1")
    each = int(threads) if threads.isdecimal() else 1
    if not machine.computes_on_cpu or each < 1 or len(machine.cores) < all_ranks * each:
        return ()
    return machine.cores[ranks.start * each : ranks.stop * each]

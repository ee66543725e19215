"""From settings to a run that can start: the model found, the numbers checked, names and places chosen.

Owns every check that can be made before a process is started, so that what is wrong shows in a second and
not after a minute. Blocks (the bundled model is converted on first use); starts no instance.
"""

import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from random import Random

import msgspec

from memserve.bundled.model import bundled_model, is_converted
from memserve.config import GatewaySettings, ServeConfig, check_tenants, parse_disk
from memserve.core.errors import ConfigError
from memserve.core.notation import parse_address
from memserve.manager.hub import ask_hub
from memserve.manager.launch_plan import LaunchPlan, num_instances, plan, served_model_name
from memserve.manager.machine import Machine
from memserve.manager.preflight import preflight
from memserve.scheduler.policies import find_policy
from memserve.security.exposure import check_exposure, is_loopback
from memserve.security.https import ServerCertificate, server_certificate
from memserve.security.secret import ClusterSecret, read_secret
from memserve.serving.autoscaling import autoscale_rules
from memserve.serving.profiles import read_profile

LOOPBACK = "127.0.0.1"

_SERVER_PORTS = range(20_000, 32_768)
"""Linux gives ports from 32768 on to outgoing connections (ip_local_port_range)."""

_KEPT_LOG_FOLDERS = 20


class PreparedRun(msgspec.Struct, frozen=True, kw_only=True):
    """Checked settings with everything chosen that differs from run to run."""

    config: ServeConfig
    """`model` is an absolute folder or a hub name."""
    machine: Machine
    cluster: str
    """Name of this run's cluster; part of the names of its shared memory."""
    log_folder: Path
    cache: Path
    """Folder for what is kept between runs: the bundled model, logs, cost profiles."""
    secret: ClusterSecret | None
    """Read once; instances read `config.cluster.secret` themselves."""
    certificate: ServerCertificate | None = None
    """The gateway's, for its clients; None serves plain HTTP."""
    warnings: tuple[str, ...]
    """What is risky but may work; for the operator to see."""

    @property
    def model_name(self) -> str:
        """What clients put into "model"."""
        return served_model_name(self.config)

    def plan(self, *, manager_endpoint: str) -> LaunchPlan:
        """The processes to start, on ports that are free now."""
        return plan(
            self.config,
            manager_endpoint=manager_endpoint,
            ports=free_ports(num_instances(self.config)),
            machine=self.machine,
            cluster=self.cluster,
            log_folder=self.log_folder,
        )


def prepare(config: ServeConfig, *, cache: Path, tell: Callable[[str], None] = lambda _: None) -> PreparedRun:
    """Check and complete the settings. Raises ConfigError on the first thing that could not work.

    `cache` is the folder for the bundled model and the logs of runs; `tell` hears of what takes its time.
    """
    config.cluster.check()
    config.gateway.check()
    check_tenants(config.tenants)
    _check_listeners(config)
    secret = read_secret(config.cluster.secret) if config.cluster.secret else None
    certificate = server_certificate(config.gateway.ssl_certfile, config.gateway.ssl_keyfile)
    autoscale_rules(config)
    find_policy(config.cluster.policy)
    if config.cluster.profile:
        read_profile(Path(config.cluster.profile))
    _check_port(config.gateway.host, config.gateway.port)
    machine = Machine.here()
    pool = msgspec.structs.replace(config.pool, disk=_absolute(config.pool.disk))
    cluster_settings = msgspec.structs.replace(config.cluster, secret=_absolute_file(config.cluster.secret))
    if not config.model and not is_converted(cache):
        tell("converting the bundled model, once (about 20 s)")
    found = msgspec.structs.replace(config, model=find_model(config.model, cache), pool=pool, cluster=cluster_settings)
    warnings = (*preflight(found, machine=machine), *_plain_text(config.gateway))
    ask_hub(found.model, machine.environment)
    cluster = config.cluster.name or secrets.token_hex(4)
    return PreparedRun(
        config=found,
        machine=machine,
        cluster=cluster,
        log_folder=log_folder(cache, cluster),
        cache=cache,
        secret=secret,
        certificate=certificate,
        warnings=warnings,
    )


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address that nobody listens on at this moment, all different.

    None of those that hosts give to outgoing connections: a server listens long after its port was chosen. Raises
    ConfigError when there are not so many.
    """
    found = list(islice(_free_ports(), count))
    if len(found) < count:
        raise ConfigError(f"{len(found)} of the ports {_SERVER_PORTS} are free on {LOOPBACK}, {count} are needed")
    return found


def _free_ports() -> Iterator[int]:
    for port in Random().sample(_SERVER_PORTS, len(_SERVER_PORTS)):  # noqa: S311 - so that two runs seldom meet
        try:
            socket.create_server((LOOPBACK, port)).close()
        except OSError:
            continue
        yield port


def find_model(model: str, cache: Path) -> str:
    """An absolute folder for the bundled model and for whatever is a folder here; else the name as it is."""
    if not model:
        return str(bundled_model(cache))
    folder = Path(model).expanduser()
    return str(folder.resolve()) if folder.is_dir() else model


def _absolute(disk: str) -> str:
    """The same disk tier, wherever the instances run."""
    place = parse_disk(disk, "pool.disk")
    return "" if place is None else f"{Path(place.folder).expanduser().resolve()}:{place.size_bytes}"


def _check_listeners(config: ServeConfig) -> None:
    """Raise ConfigError unless who can reach them has to show something."""
    has_secret = bool(config.cluster.secret)
    check_exposure(config.gateway.host, "--host", has_secret=has_secret)
    check_exposure(parse_address(config.cluster.manager, "cluster.manager")[0], "--manager", has_secret=has_secret)


def _plain_text(gateway: GatewaySettings) -> tuple[str, ...]:
    if gateway.ssl_certfile or is_loopback(gateway.host):
        return ()
    told = (
        f"--host {gateway.host}: prompts, answers and keys of clients go over the network in the clear; give "
        "--ssl-certfile and --ssl-keyfile, or put a TLS proxy in front of the gateway"
    )
    return (told,)


def _absolute_file(path: str) -> str:
    """The same file, wherever the instances run; "" stays."""
    return str(Path(path).expanduser().resolve()) if path else ""


def _check_port(host: str, port: int) -> None:
    """Raise ConfigError unless the gateway could listen there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another address with --host and --port"
        ) from error


def log_folder(cache: Path, cluster: str) -> Path:
    """A new name in the folder of logs, of which the latest are kept. Nothing is created yet."""
    logs = cache / "logs"
    if logs.is_dir():
        for old in sorted(logs.iterdir())[:-_KEPT_LOG_FOLDERS]:
            shutil.rmtree(old, ignore_errors=True)
    return logs / f"{time.strftime('%Y%m%d-%H%M%S')}-{cluster}"

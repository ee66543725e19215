"""Settings, parsed once at the edge and handed down; no other module reads files or environment.

Owns the shape and the checks of `memserve serve --config FILE.toml` and of the connector's
kv_connector_extra_config. Unknown keys, wrong types and impossible numbers raise ConfigError.
"""

import re
import tomllib
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from memserve.core.enums import AutoscaleMode, CachingMode, DataPath, LauncherKind, PiecePlan, Role, TransferMode
from memserve.core.errors import ConfigError
from memserve.core.etcd_address import parse_etcd
from memserve.core.notation import parse_address, parse_size
from memserve.security.exposure import check_exposure
from memserve.security.secret import ClusterSecret
from memserve.security.tls_files import NO_TLS, TlsFiles

T = TypeVar("T")

ALL_PATHS = (DataPath.SHM, DataPath.TCP)

MAX_WORKERS = 64
"""Of one gateway: more than the cores of most machines, and each follows the events of every instance."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every section."""


class ClusterSettings(Settings, frozen=True):
    """How many instances of which role."""

    prefill: int = 0
    decode: int = 0
    colocated: int = 0
    instances: int = 0
    """Those that may play any role."""
    caching: CachingMode = CachingMode.RETURN
    transfer: TransferMode = TransferMode.BY_REQUEST
    pieces: PiecePlan = PiecePlan.AGGREGATED
    policy: str = "prompt-tree"
    profile: str = ""
    """File of `memserve calibrate --output`; "" takes what was calibrated for this engine here, if anything was."""
    name: str = ""
    """Of the cluster; instances that are to outlive this process need one that stays. "" makes one up."""
    manager: str = "127.0.0.1:0"
    """HOST:PORT where instances join; port 0 takes a free one."""
    registry: str = ""
    """etcd://HOST:PORT,... or etcds://: where several gateways keep who is in the cluster; "" in this one alone."""
    secret: str = ""
    """File with the cluster's secret; needed as soon as anything listens beyond loopback."""
    launcher: LauncherKind = LauncherKind.LOCAL
    max_restarts: int = 5
    """How often in a row an instance of this machine that ends by itself is started again."""

    def check(self) -> None:
        """Raise ConfigError unless the numbers make a cluster."""
        for name in ("prefill", "decode", "colocated", "instances"):
            if getattr(self, name) < 0:
                raise ConfigError(f"--{name} {getattr(self, name)}: the number of instances cannot be negative")
        check_name(self.name)
        parse_address(self.manager, "manager")
        self._check_registry()
        if self.max_restarts < 0:
            raise ConfigError(f"--max-restarts {self.max_restarts}: give 0 to restart nothing, or more")
        if bool(self.prefill) != bool(self.decode) and not self.instances:
            raise ConfigError(
                f"--prefill {self.prefill} --decode {self.decode}: a disaggregated cluster needs at least one of each; "
                "use --colocated N for instances that do both, --instances N for those that play any role, or 0 of "
                "all for a gateway that instances join"
            )

    def _check_registry(self) -> None:
        if not self.registry:
            return
        cluster = parse_etcd(self.registry).cluster
        if cluster:
            raise ConfigError(f'--registry {self.registry}: leave out "/{cluster}" and give the name with --name')
        if not self.name:
            raise ConfigError(f"--registry {self.registry}: give --name, the same for every gateway of the cluster")


class RaySettings(Settings, frozen=True):
    """Of `--launcher ray`: the cluster, and what each worker process of an instance is given of it."""

    address: str = "auto"
    """HOST:PORT of its head; "auto" takes the one that runs on this machine."""
    num_cpus: float = 1.0
    num_gpus: float | None = None
    """None: one where the Ray cluster has any, else none."""
    memory: str = ""
    """Of each instance as Ray counts it, e.g. "16GiB"; "" asks for none."""

    def check(self) -> None:
        """Raise ConfigError unless it can be asked for."""
        if self.num_cpus < 0 or (self.num_gpus or 0) < 0:
            raise ConfigError(f"ray: {self.num_cpus:g} CPUs, {self.num_gpus or 0:g} GPUs: give 0 or more")
        if self.memory:
            parse_size(self.memory, "ray.memory")


class Network(Settings, frozen=True):
    """Where a pool listens, for its agent and for data, and under which address it is told to others."""

    bind: str = "127.0.0.1"
    advertise: str = ""
    """What others connect to where that is not `bind`: behind a translated address, or with bind = "0.0.0.0"."""
    tls: TlsFiles = NO_TLS
    secret: ClusterSecret | None = None
    """Of the cluster: with it, all connections are encrypted, and only who knows it is talked to."""

    @property
    def seals_data(self) -> bool:
        """Whether data connections are TLS."""
        return self.tls.is_on or self.secret is not None

    @property
    def host(self) -> str:
        """As it stands in an endpoint."""
        host = self.advertise or self.bind
        return f"[{host}]" if ":" in host else host

    def check(self) -> None:
        """Raise ConfigError unless others can tell where to connect to, and how."""
        if self.bind in {"0.0.0.0", "::", "*"} and not self.advertise:  # noqa: S104 - compared, not bound
            raise ConfigError(f'bind = "{self.bind}" is no address to connect to: set advertise to one of this host')
        if self.tls.is_on and not (self.tls.certificate and self.tls.key and self.tls.ca):
            raise ConfigError("tls needs certificate, key and ca: set all three, or none for plain connections")
        check_exposure(self.bind, "bind", has_secret=self.secret is not None)


LOOPBACK = Network()


class GatewaySettings(Settings, frozen=True):
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    """Processes that serve at this port."""
    ssl_certfile: str = ""
    """PEM file with the certificate that clients are shown; "" serves plain HTTP."""
    ssl_keyfile: str = ""
    """PEM file of its key, without a passphrase; "" when that is in `ssl_certfile`, too."""
    request_deadline_s: float = 600.0
    """Longest life of one request, streaming included."""
    max_requests_per_instance: int = 256
    """So many requests run at once for each instance that serves; further ones wait for their turn."""
    max_waiting: int = 2048
    """So many wait at most, further ones get 429; as few as `max_waiting_per_tenant` of one tenant."""
    max_waiting_per_tenant: int = 512
    retry_ratio: float = 0.2
    """Retries after faults that each request pays in, on top of the reserve."""
    retry_reserve: int = 1000
    """Retries that can be saved up: as many as may go elsewhere at once when an instance dies."""

    def check(self) -> None:
        """Raise ConfigError unless the bounds let requests through."""
        for name, least in (("max_requests_per_instance", 1), ("max_waiting", 0), ("max_waiting_per_tenant", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"gateway.{name} = {getattr(self, name)}: give {least} or more")
        if not 1 <= self.workers <= MAX_WORKERS:
            raise ConfigError(f"--workers {self.workers}: give the number of processes that serve, 1 to {MAX_WORKERS}")
        if self.workers > self.max_requests_per_instance:
            raise ConfigError(
                f"--workers {self.workers} with gateway.max_requests_per_instance = {self.max_requests_per_instance}: "
                "each worker has a part of that bound, and needs one at least"
            )

    def part(self, worker: int) -> "GatewaySettings":
        """As this one of the workers keeps them: what bounds all of them together is dealt out among them."""
        bounds = ("max_requests_per_instance", "max_waiting", "max_waiting_per_tenant", "retry_reserve")
        parts = {name: (getattr(self, name) + self.workers - 1 - worker) // self.workers for name in bounds}
        return msgspec.structs.replace(self, **parts)


class TenantSettings(Settings, frozen=True):
    """Somebody who is served with a share and a key of their own."""

    name: str
    api_key: str
    weight: float = 1.0
    """Share of the cluster when more is asked for than it can do, over the sum of the weights of who asks."""
    isolated: bool = False
    """Nobody else's prompts find what this tenant's have computed, not even by the time they take."""


class Watermarks(Settings, frozen=True):
    """When a pool moves the blocks it wants least from DRAM to disk: shares of its DRAM that are in use."""

    high: float = 0.8
    """Above it, blocks move in the background ..."""
    low: float = 0.7
    """... until this is left."""

    def check(self, what: str) -> None:
        """Raise ConfigError that names `what` unless the marks are in order."""
        if not 0 < self.low <= self.high < 1:
            raise ConfigError(
                f"{what} = {{ low = {self.low:g}, high = {self.high:g} }}: give two shares between 0 and 1, low first"
            )


DEFAULT_MARKS = Watermarks()


class DiskPlace(Settings, frozen=True):
    """Where a pool's disk tier lies, and how large it may be."""

    folder: str
    size_bytes: int


class Keeping(Settings, frozen=True):
    """How long a pool keeps KV that nobody evicts, and how much of it may be pinned."""

    ttl_s: float | None = None
    """KV that was inserted so long ago is dropped, unless it was inserted again since; left out: kept for ever."""
    pin_share: float = 0.25
    """At most this share of each tier may be pinned."""

    def check(self, what: str) -> None:
        """Raise ConfigError that names `what` unless both numbers make sense."""
        if self.ttl_s is not None and not self.ttl_s > 0:
            raise ConfigError(f"{what}.ttl_s = {self.ttl_s:g}: give a positive number of seconds, or leave it out")
        if not 0 <= self.pin_share <= 1:
            raise ConfigError(f"{what}.pin_share = {self.pin_share:g}: give a share from 0 to 1")


DEFAULT_KEEPING = Keeping()


class PoolSettings(Settings, frozen=True):
    """The MemPool of each instance."""

    dram: str = "1GiB"
    """Shared memory for KV on the DRAM tier, e.g. "512MiB", "4GiB"."""
    disk: str = ""
    """Folder and size of the disk tier of each instance, "DIR:SIZE"; "" for none."""
    marks: Watermarks = Watermarks()
    keep: Keeping = Keeping()
    paths: tuple[DataPath, ...] = ALL_PATHS
    """Ways for KV between instances, best first; each pair takes the first that works between them."""
    tls: TlsFiles = NO_TLS
    """Of data connections; without any, a cluster secret makes its own."""
    plain_nixl: bool = False
    """With a cluster secret, allow path "nixl" although UCX encrypts nothing."""


class RoleSettings(Settings, frozen=True):
    """Of the engines of one role, on top of what all engines get."""

    args: tuple[str, ...] = ()


class EngineSettings(Settings, frozen=True):
    args: tuple[str, ...] = ()
    """Handed to vLLM's server as they are, before those after `--` on the command line."""
    prefill: RoleSettings = RoleSettings()
    decode: RoleSettings = RoleSettings()


class AutoscalerSettings(Settings, frozen=True):
    """When the number and the roles of the instances follow the load; checked where its rules are made."""

    mode: AutoscaleMode = AutoscaleMode.OFF
    ttft_s: float = 2.0
    """Target for the time to the first token."""
    tpot_s: float = 0.1
    """Target for the time per output token after it."""
    share: float = 0.9
    """Of the requests that are to keep both."""
    bounds: dict[Role, tuple[int, int]] = {}
    """Least and most instances by role; {} is from 1 to twice the number that the cluster starts with."""
    every_s: float = 10.0
    """Between two looks."""
    window_s: float = 60.0
    """Of the requests that a look is about."""
    cool_down_s: float = 300.0
    """A role that has grown does not shrink for so long, and the other way round."""
    calm_s: float = 300.0
    """A role shrinks when it has needed fewer for so long."""

    def check(self) -> None:
        """Raise ConfigError unless it can look at all."""
        for name in ("every_s", "window_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"autoscaler.{name} = {getattr(self, name):g}: give a positive number of seconds")


class ServeConfig(Settings, frozen=True):
    """All of `memserve serve`: a TOML file gives the sections, options on the command line win."""

    model: str = ""
    """Folder or name that vLLM takes; "" is the bundled model."""
    cluster: ClusterSettings = ClusterSettings()
    gateway: GatewaySettings = GatewaySettings()
    tenants: tuple[TenantSettings, ...] = ()
    """None: no key is asked for."""
    pool: PoolSettings = PoolSettings()
    engine: EngineSettings = EngineSettings()
    autoscaler: AutoscalerSettings = AutoscalerSettings()
    ray: RaySettings = RaySettings()


class ConnectorConfig(Settings, frozen=True):
    """kv_connector_extra_config of MemServeConnector. Every field has a default that works alone."""

    instance: str = ""
    """Unique in the cluster, and the name of its file on the disk tier; "" makes one, from the process id if it can."""
    role: Role = Role.COLOCATED
    caching: CachingMode = CachingMode.RETURN
    transfer: TransferMode = TransferMode.BY_REQUEST
    pieces: PiecePlan = PiecePlan.AGGREGATED
    dram: str = "1GiB"
    disk: str = ""
    """As PoolSettings.disk."""
    marks: Watermarks = Watermarks()
    keep: Keeping = Keeping()
    bind: str = "127.0.0.1"
    """Address on which the pool's agent and data server listen."""
    advertise: str = ""
    """As Network.advertise."""
    tls: TlsFiles = NO_TLS
    """As PoolSettings.tls."""
    secret: str = ""
    """As ClusterSettings.secret; a path, as it stands on a command line."""
    paths: tuple[DataPath, ...] = ALL_PATHS
    """As PoolSettings.paths."""
    plain_nixl: bool = False
    """As PoolSettings.plain_nixl."""
    cluster: str = "default"
    join: str = ""
    """Endpoint of the cluster manager; "" runs alone."""
    url: str = ""
    """Base URL of this instance's own OpenAI server, told to the manager."""


def check_tenants(tenants: tuple[TenantSettings, ...]) -> None:
    """Raise ConfigError unless all have names, keys of their own and positive weights."""
    for number, tenant in enumerate(tenants):
        where = f'tenants: "{tenant.name}"'
        if not tenant.name or not tenant.api_key:
            raise ConfigError(f"{where}: give each tenant a name and an api_key")
        if not tenant.weight > 0:
            raise ConfigError(f"{where}: weight {tenant.weight:g} is not above 0")
        for other in tenants[:number]:
            if tenant.name == other.name or tenant.api_key == other.api_key:
                raise ConfigError(f'{where} and "{other.name}" have the same name or key: each needs its own')


def check_paths(paths: tuple[DataPath, ...], what: str) -> None:
    """Raise ConfigError that names `what` unless there is at least one path and none comes twice."""
    if not paths or len(set(paths)) != len(paths):
        raise ConfigError(f"{what} = {[str(p) for p in paths]}: name each of {[str(p) for p in DataPath]} at most once")


def check_name(name: str) -> None:
    """Raise ConfigError unless this can be a cluster's name, which is part of file names; "" is made up."""
    if name and not _NAME.fullmatch(name):
        raise ConfigError(f'--name "{name}": write up to 40 letters, digits, - and _')


def parse_disk(text: str, what: str) -> DiskPlace | None:
    """Place of "DIR:SIZE", None for "". Raises ConfigError that names `what`."""
    if not text:
        return None
    folder, _, size = text.rpartition(":")
    if not folder:
        raise ConfigError(f'{what} = "{text}" names no folder and size: write for example "/var/cache/kv:200GiB"')
    return DiskPlace(folder=folder, size_bytes=parse_size(size, what))


def load_serve_config(path: Path) -> ServeConfig:
    """Read a TOML file. Raises ConfigError with the file, the place and what would be right."""
    try:
        with path.open("rb") as file:
            raw = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    return convert(raw, ServeConfig, str(path))


def convert(raw: Any, shape: type[T], where: str) -> T:
    """Typed and checked from plain data; raises ConfigError that says where and what is allowed."""
    try:
        return msgspec.convert(raw, shape)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {error}") from error

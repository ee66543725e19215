"""`memserve pool`: a memory instance until someone stops it, and what is printed meanwhile.

Owns the lines on the terminal and the way from the gateway's URL to the manager's endpoint.
"""

import asyncio
import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from types import FrameType

import msgspec
from rich.console import Console

from memserve.cli.admin import ask
from memserve.config import DiskPlace, Network, parse_disk
from memserve.core.errors import MemserveError
from memserve.core.etcd_address import is_etcd
from memserve.core.notation import parse_size
from memserve.instance.etcd_link import gateways_in_etcd
from memserve.instance.memory_server import MemoryServer, default_name, welcome
from memserve.security.gateway_access import ANY_GATEWAY, GatewayAccess
from memserve.wire.messages import WelcomeReply

_HAND_ON_S = 180.0
"""A little longer than the cluster takes at most."""
_console = Console(highlight=False, soft_wrap=True)


class PoolOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`memserve pool` as typed."""

    join: str
    ca: str = ""
    """As GatewayAccess.ca."""
    dram: str
    disk: str
    name: str
    network: Network
    hand_on: bool


class _Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """The part of the gateway's answer that is needed."""

    manager: str


def run_pool(options: PoolOptions) -> None:
    """Serve until SIGINT or SIGTERM. Raises ConfigError, InstanceUnavailable when nobody answers at `join`."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    dram_bytes, disk = parse_size(options.dram, "--dram"), parse_disk(options.disk, "--disk")
    options.network.check()
    access = GatewayAccess(secret=options.network.secret, ca=options.ca)
    endpoint = asyncio.run(manager_endpoint(options.join, access))
    into = asyncio.run(welcome(endpoint, options.network.secret))
    name = options.name or default_name(disk)
    with _stop_asked() as stop:
        while _serve_once(options, endpoint, into, disk, name=name, dram_bytes=dram_bytes, stop=stop):
            _console.print(f"{name} was taken for dead by the cluster: it comes back empty-handed", markup=False)
    _console.print("stopped")


def _serve_once(
    options: PoolOptions,
    endpoint: str,
    into: WelcomeReply,
    disk: DiskPlace | None,
    *,
    name: str,
    dram_bytes: int,
    stop: Event,
) -> bool:
    """One life of the instance; True when the cluster took it for dead, and it is to begin another."""
    is_fenced = Event()

    def fence() -> None:
        is_fenced.set()
        stop.set()

    with MemoryServer(name=name, into=into, dram_bytes=dram_bytes, disk=disk, network=options.network) as server:
        server.join(into.join or endpoint, dismissed=stop.set, fenced=fence)
        tiers = ", ".join(f"{tier.tier.name} {tier.num_blocks} blocks" for tier in server.pool.stats().tiers)
        _console.print(f"{name} serves {tiers} to cluster {into.cluster}; Ctrl-C to leave", markup=False)
        stop.wait()
        if is_fenced.is_set():
            stop.clear()
            return True
        _console.print("leaving")
        if options.hand_on:
            _hand_on(server, stop)
    return False


def _hand_on(server: MemoryServer, stop: Event) -> None:
    """Until the cluster says that it is done, or someone asks once more to stop."""
    stop.clear()
    try:
        server.hand_on()
    except MemserveError as error:
        _console.print(f"what it holds is dropped: {error}", markup=False)
        return
    _console.print("handing on what it holds; Ctrl-C drops it")
    stop.wait(_HAND_ON_S)


async def manager_endpoint(join: str, access: GatewayAccess = ANY_GATEWAY) -> str:
    """Of a cluster manager: `join` itself as HOST:PORT or tcp://HOST:PORT, what a gateway at a URL tells, or etcd."""
    if is_etcd(join):
        return (await gateways_in_etcd(join))[0]
    if not join.startswith(("http://", "https://")):
        return join if join.startswith("tcp://") else f"tcp://{join}"
    return (await ask(join, "/admin/cluster", _Cluster, option="--join", access=access)).manager


@contextmanager
def _stop_asked() -> Iterator[Event]:
    """Set once one of the signals came."""
    stop = Event()

    def ask(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

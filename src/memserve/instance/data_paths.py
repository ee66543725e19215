"""The ways bytes take between this pool and its peers: which one leads to whom, and this pool's data server.

Owns a transport for each path that is allowed here, the server and the door. Thread-safe.

    DataPaths(...) -> start -> in use -> close     (what is under way fails)
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from memserve.config import Network, check_paths
from memserve.core.clock import Clock
from memserve.core.enums import DataPath
from memserve.core.errors import TransferFailed
from memserve.core.ids import BlockId, Incarnation, InstanceId, TransferId
from memserve.instance.core import PoolCore
from memserve.instance.data_door import DataDoor
from memserve.storage.shared_memory import attach
from memserve.transport.base import Transport
from memserve.transport.nixl import NixlTransport
from memserve.transport.nixl_agent import NixlAgent, load_nixl
from memserve.transport.shm import SharedMemoryTransport
from memserve.transport.tcp import TcpTransport
from memserve.transport.tcp_server import DataServer
from memserve.transport.verified_copy import CopyThreads
from memserve.wire.messages import PeerInfo, PeerPath


class DataPaths:
    """Transports in order of preference."""

    def __init__(
        self, paths: tuple[DataPath, ...], *, name: str, core: PoolCore, network: Network, clock: Clock
    ) -> None:
        """Raises ConfigError unless `paths` names at least one and none twice, and all are installed.

        `name` tells this pool's life from all others.
        """
        check_paths(paths, "paths")
        network.check()
        if DataPath.NIXL in paths:
            load_nixl()
        agent = NixlAgent(name, clock=clock)
        self.threads = CopyThreads()
        """Shared by all who copy or hash blocks of this pool."""
        makers: dict[DataPath, Callable[[], Transport]] = {
            DataPath.SHM: lambda: SharedMemoryTransport(partial(attach, writable=False), threads=self.threads),
            DataPath.TCP: lambda: TcpTransport(clock=clock, threads=self.threads, network=network),
            DataPath.NIXL: lambda: NixlTransport(agent, clock=clock, network=network),
        }
        self._transports = tuple(makers[path]() for path in paths)
        self._avoided: set[tuple[InstanceId, Incarnation, DataPath]] = set()
        self.door = DataDoor(core, block_bytes=core.memory.block_bytes)
        nixl = agent if DataPath.NIXL in paths else None
        needs_server = bool({DataPath.TCP, DataPath.NIXL} & {*paths})
        self._server = DataServer(network=network, door=self.door, clock=clock, nixl=nixl) if needs_server else None

    def start(self) -> str:
        """The data endpoint; "" where the network is not among the paths. Raises ConfigError."""
        return self._server.start() if self._server is not None else ""

    def allows(self, path: DataPath) -> bool:
        return any(transport.name is path for transport in self._transports)

    @property
    def names(self) -> tuple[DataPath, ...]:
        """Best first."""
        return tuple(transport.name for transport in self._transports)

    def find(self, path: DataPath) -> Transport | None:
        """None where it is not allowed."""
        return next((transport for transport in self._transports if transport.name is path), None)

    def avoid(self, peer: PeerInfo, path: DataPath) -> None:
        """A block did not get through: it is not chosen for this incarnation until it is trusted again."""
        self._avoided.add((peer.instance, peer.incarnation, path))

    def trust(self, peer: PeerInfo, path: DataPath) -> None:
        """A block got through."""
        self._avoided.discard((peer.instance, peer.incarnation, path))

    def forget(self, instance: InstanceId, incarnation: Incarnation) -> None:
        """It is gone."""
        self._avoided = {entry for entry in self._avoided if entry[:2] != (instance, incarnation)}

    def choose(self, peer: PeerInfo) -> Transport | None:
        """The best path that leads to this peer and is not known to fail; None when there is none."""
        return next((t for t in self._transports if self._is_usable(t, peer)), None)

    def describe(self, peer: PeerInfo) -> PeerPath:
        """What `choose` would take."""
        transport = self.choose(peer)
        return PeerPath(peer=peer.instance, path=None if transport is None else transport.name)

    def leading_to(self, peer: PeerInfo) -> Transport:
        """As `choose`, but raises TransferFailed when there is none."""
        transport = self.choose(peer)
        if transport is None:
            tried = " and ".join(transport.name for transport in self._transports)
            raise TransferFailed(
                f"no path for KV to or from {peer.instance}: {tried} was tried here; its memory cannot be mapped "
                f'and its data endpoint is "{peer.data}": allow a path that both have'
            )
        return transport

    @contextmanager
    def offer(self, transfer: TransferId, blocks: Sequence[BlockId]) -> Iterator[bytes]:
        """Blocks that a peer may fetch meanwhile; gives the ticket, b"" where nobody comes over the network."""
        if self._server is None:
            yield b""
            return
        with self.door.offer(transfer, blocks) as ticket:
            yield ticket

    def close(self) -> None:
        """Idempotent."""
        if self._server is not None:
            self._server.close()
        for transport in self._transports:
            transport.close()
        self.threads.close()

    def _is_usable(self, transport: Transport, peer: PeerInfo) -> bool:
        is_avoided = (peer.instance, peer.incarnation, transport.name) in self._avoided
        return not is_avoided and transport.reaches(peer)

    def __repr__(self) -> str:
        return f"DataPaths({', '.join(map(repr, self._transports))}, {self._server})"

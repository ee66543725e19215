"""Brings parts into room at any peer, by the path that the room names: one writer for each path over the network.

For processes that only write, as an engine's workers do. Owns the writers; what is mapped needs none.
"""

from collections.abc import Iterable

from memserve.config import Network
from memserve.core.clock import Clock
from memserve.core.enums import DataPath
from memserve.core.errors import TransferFailed
from memserve.transport.nixl import NixlTransport
from memserve.transport.nixl_agent import NixlAgent, load_nixl
from memserve.transport.rooms import Part, RemoteRoom, RoomWriter
from memserve.transport.tcp import TcpTransport


class RoomWriters:
    """A RoomWriter."""

    def __init__(self, paths: tuple[DataPath, ...], *, name: str, network: Network, clock: Clock) -> None:
        """`name` tells this process's life from all others. Raises ConfigError where NIXL is allowed and missing."""
        self._writers: dict[DataPath, RoomWriter] = {}
        if DataPath.TCP in paths:
            self._writers[DataPath.TCP] = TcpTransport(clock=clock, network=network)
        if DataPath.NIXL in paths:
            load_nixl()
            self._writers[DataPath.NIXL] = NixlTransport(NixlAgent(name, clock=clock), clock=clock, network=network)

    def write(self, room: RemoteRoom, parts: Iterable[Part]) -> int:
        writer = self._writers.get(room.path)
        if writer is None:
            raise TransferFailed(f"room at {room.endpoint} takes bytes by {room.path}, which is not allowed here")
        return writer.write(room, parts)

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()

    def __repr__(self) -> str:
        return f"RoomWriters({', '.join(map(repr, self._writers.values()))})"

"""A memory instance: a pool without an engine, more DRAM or disk for a cluster that it joins and leaves at any time.

Owns its pool. The others offer it what they have no room for, and pull from it what a request asks for; the
scheduler hears what it holds as of any instance. It takes the cluster's identity, so that it can only be joined
with instances there. Its death costs what it held, and nothing else.

    welcome -> MemoryServer -> join -> serving -> (hand_on -> dismissed) -> close

`close` leaves the cluster; what was on disk stays there for the next start.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from memserve.config import ALL_PATHS, DEFAULT_MARKS, LOOPBACK, DiskPlace, Network, Watermarks
from memserve.core.enums import DataPath, Role
from memserve.core.errors import ConfigError, ProtocolError
from memserve.instance.mempool import MemPool
from memserve.rpc.channel import RpcClient
from memserve.security.secret import ClusterSecret
from memserve.wire.messages import ClusterMessage, Load, WelcomeReply, WelcomeRequest

_DEADLINE_S = 5.0


async def welcome(endpoint: str, secret: ClusterSecret | None = None) -> WelcomeReply:
    """What an instance of the cluster has to be like. Raises InstanceUnavailable when no manager answers there."""
    client: RpcClient[object] = RpcClient(endpoint, ClusterMessage, secret=secret)
    try:
        reply = await client.call(WelcomeRequest(), deadline_s=_DEADLINE_S)
    finally:
        await client.close()
    if not isinstance(reply, WelcomeReply):
        raise ProtocolError(f"{endpoint} answered {type(reply).__name__}: is this a cluster manager?")
    return reply


def default_name(disk: DiskPlace | None) -> str:
    """Different for each process; with a disk the same for each start on that folder, as its file has this name."""
    if disk is None:
        return f"memory-{os.getpid()}"
    folder = str(Path(disk.folder).resolve())
    return f"memory-{hashlib.blake2b(folder.encode(), digest_size=4).hexdigest()}"


class MemoryServer:
    """One memory instance."""

    def __init__(
        self,
        *,
        name: str,
        into: WelcomeReply,
        dram_bytes: int,
        disk: DiskPlace | None = None,
        marks: Watermarks = DEFAULT_MARKS,
        network: Network = LOOPBACK,
        paths: tuple[DataPath, ...] = ALL_PATHS,
    ) -> None:
        """Raises ConfigError for a cluster without instances, too: nobody knows yet how large a block is."""
        if into.identity is None:
            raise ConfigError(
                f'no instance has joined the cluster "{into.cluster}" yet, so its model is not known: start one first'
            )
        self._cluster = into.cluster
        self.pool = MemPool(
            instance=name,
            block_size=into.identity.block_size,
            block_bytes=into.identity.block_bytes,
            dram_bytes=dram_bytes,
            identity=into.identity,
            cluster=into.cluster,
            network=network,
            paths=paths,
            disk=disk,
            marks=marks,
        )

    def join(self, endpoint: str, *, dismissed: Callable[[], None], fenced: Callable[[], None]) -> None:
        """In the background, and again when the manager forgets.

        Both are called in the pool's own thread, and it is to be closed then: `dismissed` when the cluster lets this
        instance go, `fenced` when it was taken for dead.
        """
        self.pool.membership.join(
            endpoint,
            cluster=self._cluster,
            role=Role.MEMORY,
            url="",
            load=self._load,
            dismissed=dismissed,
            fenced=fenced,
        )

    def hand_on(self) -> None:
        """Begin to give what it holds to the others; `dismissed` is called when that is done.

        Raises InstanceUnavailable, and ConfigError when the manager refuses.
        """
        self.pool.membership.ask_drain()

    def close(self) -> None:
        """Leave. Idempotent."""
        self.pool.close()

    def _load(self) -> Load:
        stats = self.pool.stats()
        return Load(pool=stats.tiers, disk=stats.disk)

    def __enter__(self) -> "MemoryServer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"MemoryServer({self.pool})"

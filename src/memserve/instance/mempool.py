"""MemPool: an instance's elastic memory, its own part of one pool over all instances (arXiv 2406.17565, Table 1).

Owns the instance's blocks on every tier, the index over them and the agent that serves them to peers. The
nine calls take and return BlockLists, which name their instance; `local` and `engine_path` are
what an inference engine needs beside them. Block bytes are opaque here.

    MemPool(...) -> serving -> close     (close unlinks the shared memory; a crash leaves it to `sweep`)

Thread-safe. The nine calls may wait for a peer, with a deadline; those of the engine path never do.
"""

import time
from concurrent.futures import Future
from functools import partial
from types import TracebackType

from memserve.config import ALL_PATHS, DEFAULT_KEEPING, DEFAULT_MARKS, LOOPBACK, DiskPlace, Keeping, Network, Watermarks
from memserve.core.clock import Clock, SystemClock
from memserve.core.enums import DataPath, Tier
from memserve.core.ids import BlockId, Incarnation, InstanceId
from memserve.instance.aborts import AGAIN_S, Aborts
from memserve.instance.addresses import Addresses
from memserve.instance.agent import Agent, Ticker
from memserve.instance.core import PoolCore
from memserve.instance.data_paths import DataPaths
from memserve.instance.engine_blocks import EngineBlocks
from memserve.instance.engine_path import EnginePath
from memserve.instance.event_publisher import COLLECT_S
from memserve.instance.inbox import Inbox
from memserve.instance.locked_ledger import LockedLedger
from memserve.instance.membership import Membership
from memserve.instance.offload import Offload
from memserve.instance.peer_links import PeerLinks
from memserve.instance.pool_pins import PoolPins
from memserve.instance.puller import PULL_DEADLINE_S, Puller
from memserve.instance.receiver import Receiver
from memserve.instance.records import PoolMatch, PoolStats, Received, nothing
from memserve.instance.remote_blocks import REMOTE_TTL_S, RemoteBlocks
from memserve.instance.sender import TransferSender
from memserve.instance.setup import checked_identity, open_tiers
from memserve.instance.tier_mover import TICK_S, TierMover
from memserve.pool.tokens import Tokens
from memserve.storage.base import Storage
from memserve.transfer.handoff import Handoff, HandoffState
from memserve.wire.identity import KvIdentity, Namespace
from memserve.wire.messages import ArenaRef, BlockList, PeerInfo, RequestReport

__all__ = ["Handoff", "HandoffState", "MemPool"]

_REFRESH_S = REMOTE_TTL_S / 3
_EXPIRY_S = 1.0
_OWNER = "library"


class MemPool:
    """One instance's pool; construct it, use it, close it."""

    def __init__(
        self,
        *,
        instance: str,
        block_size: int,
        block_bytes: int,
        dram_bytes: int,
        hbm_bytes: int = 0,
        hbm: Storage | None = None,
        identity: KvIdentity | None = None,
        cluster: str = "default",
        network: Network = LOOPBACK,
        clock: Clock | None = None,
        paths: tuple[DataPath, ...] = ALL_PATHS,
        disk: DiskPlace | None = None,
        marks: Watermarks = DEFAULT_MARKS,
        keep: Keeping = DEFAULT_KEEPING,
    ) -> None:
        """`block_size` in tokens; sizes in bytes are rounded down to whole blocks. Raises ConfigError.

        `paths` says how bytes may go between this pool and its peers, best first. What `disk` holds is found
        again by the next pool of this name and identity. `hbm` is memory for the HBM tier in place of
        `hbm_bytes`, such as engines.device.arena.DeviceArena; the pool closes it.
        """
        keep.check("keep")
        identity = checked_identity(identity, block_size=block_size, block_bytes=block_bytes)
        self._incarnation = Incarnation(time.time_ns())
        self._instance = InstanceId(instance)
        tiers = open_tiers(
            cluster=cluster,
            instance=self._instance,
            incarnation=self._incarnation,
            block_bytes=block_bytes,
            dram_bytes=dram_bytes,
            hbm_bytes=hbm_bytes,
            hbm=hbm,
            disk=disk,
            identity=identity,
        )
        self._arena, self._memory = tiers.arena, tiers.memory
        self._core = PoolCore(memory=self._memory, block_size=block_size, clock=clock or SystemClock(), keeping=keep)
        self.tiers = TierMover(core=self._core, disk=tiers.disk, marks=marks, clock=SystemClock())
        self._paths = self._new_paths(paths, cluster=cluster, network=network)
        self.local = LockedLedger(self._core.ledger, self._core.lock)
        self._addresses = Addresses(
            instance=self._instance, incarnation=self._incarnation, block_size=block_size, ledger=self.local
        )
        self.pins = PoolPins(self._core)
        self.engine_blocks = EngineBlocks(self._core)
        self._inbox, self._links = Inbox(), PeerLinks(lambda: self.info, secret=network.secret)
        self._aborts = Aborts(self._links, clock=SystemClock())
        self._receiver = self._new_receiver()
        self.offload = Offload(core=self._core, links=self._links, marks=marks, clock=SystemClock())
        self._agent = self._new_agent(network)
        self._sender = self._new_sender()
        self._remote = RemoteBlocks(agent=self._agent, links=self._links)
        self.engine_path = EnginePath(core=self._core, agent=self._agent, links=self._links, aborts=self._aborts)
        self._puller = self._new_puller()
        self.membership = self._new_membership(network)
        self.info = self._start(identity)

    # ------------------------------------------------------------ the nine calls

    def alloc_mem(self, num_blocks: int, *, tier: Tier = Tier.DRAM, on: PeerInfo | None = None) -> BlockList:
        """Active blocks here, or on a peer that this pool is in touch with. Raises PoolExhausted.

        Blocks on a peer are kept by a lease that this pool extends as long as it lives.
        """
        if on is None or on.instance == self._instance:
            return self._addresses.name(self.local.allocate(num_blocks, tier=tier, owner=_OWNER))
        return self._remote.allocate(num_blocks, tier=tier, on=on, local=self.info)

    def free_mem(self, addresses: BlockList) -> None:
        """Give active blocks back, here or on a peer. Raises InvalidBlocks and then frees none."""
        if addresses.instance == self._instance:
            self.local.free(self._addresses.own(addresses))
            return
        self._remote.free(addresses)

    def insert(
        self, tokens: Tokens, addresses: BlockList, *, namespace: Namespace = b"", ttl_s: float | None = None
    ) -> BlockList:
        """Index these blocks as the KV of `tokens`: active becomes historical. Returns what the index names.

        It is found for `ttl_s` seconds, longer where it was to be found for longer; None: as `keep` says.

        Where it names an earlier copy already, that one stays and the block given is freed. Raises
        InvalidTokens unless the tokens fill the blocks exactly, InvalidBlocks, InvalidLease for an impossible ttl_s.
        """
        data = self._addresses.filling_tokens(tokens, len(addresses.blocks))
        blocks = self._addresses.own(addresses)
        with self._core.lock:
            self._core.ledger.insert(data, blocks, namespace=namespace, ttl_s=ttl_s)
            indexed = self._core.ledger.match(data, owner=_OWNER, namespace=namespace)
            if indexed.lease is not None:
                self._core.ledger.release(indexed.lease)
        return self._addresses.name(indexed.blocks)

    def match(self, tokens: Tokens, *, namespace: Namespace = b"") -> PoolMatch:
        """The longest cached prefix in whole blocks, leased until released."""
        found = self.local.match(tokens, owner=_OWNER, namespace=namespace)
        return PoolMatch(
            addresses=self._addresses.name(found.blocks),
            num_tokens=found.num_tokens,
            num_engine_tokens=self.engine_blocks.num_tokens(tokens, namespace=namespace),
            give_back=partial(self.local.release, found.lease) if found.lease is not None else nothing,
        )

    def delete(self, tokens: Tokens, *, namespace: Namespace = b"") -> int:
        """Drop the entry of the last whole block and all that continues it; returns how many entries."""
        return self.local.delete(tokens, namespace=namespace)

    def swap_out(self, num_blocks: int, *, source: Tier = Tier.HBM, target: Tier = Tier.DRAM) -> int:
        """Move historical blocks to a slower tier, the pool picks which; returns how many. Raises PoolExhausted."""
        return self.tiers.swap_out(num_blocks, source=source, target=target)

    def swap_in(self, addresses: BlockList, *, target: Tier = Tier.HBM) -> BlockList:
        """Move historical blocks to a faster tier; returns where they are now, in the same order.

        Raises PoolExhausted, and StorageFailed when some could not be read: those are no longer indexed.
        """
        return self._addresses.name(self.tiers.swap_in(self._addresses.own(addresses), target=target))

    def transfer(
        self,
        to: PeerInfo,
        source: BlockList,
        *,
        destination: BlockList | None = None,
        private: bytes = b"",
        tier: Tier = Tier.DRAM,
    ) -> BlockList:
        """Copy blocks to a peer; without `destination` it allocates them in `tier`. Returns where they are.

        They are active there in this pool's name, as after alloc_mem; the peer's application is told with
        `private`. The caller keeps `source` alive meanwhile. Raises TransferFailed, PoolExhausted,
        InvalidBlocks, InstanceUnavailable, DeadlineExceeded.
        """
        return self._sender.send(to, source, tokens=None, destination=destination, private=private, tier=tier)

    def transfer_with_insert(
        self,
        to: PeerInfo,
        tokens: Tokens,
        source: BlockList,
        *,
        destination: BlockList | None = None,
        private: bytes = b"",
        namespace: Namespace = b"",
        tier: Tier = Tier.DRAM,
    ) -> BlockList:
        """As `transfer`, and index the blocks at the peer, in one control round trip.

        Visible there only once all are complete and verified. Returns what its index names.
        """
        data = self._addresses.filling_tokens(tokens, len(source.blocks))
        return self._sender.send(
            to, source, tokens=data, destination=destination, private=private, tier=tier, namespace=namespace
        )

    # ------------------------------------------------------------ beside them

    def connect(self, endpoint: str) -> PeerInfo:
        """Introduce this pool to another one. Raises IdentityMismatch that names the fields that differ."""
        return self._agent.wait(self._links.connect(endpoint))

    def write(self, addresses: BlockList, data: bytes | bytearray | memoryview) -> None:
        """Fill local active blocks; `data` is as long as they are. Raises InvalidBlocks."""
        self._memory.write(self._addresses.writable(addresses), memoryview(data))

    def read(self, addresses: BlockList) -> bytes:
        """Bytes of local blocks, one after the other. Raises InvalidBlocks."""
        return self._memory.read(self._addresses.readable(addresses))

    def view(self, block: BlockId) -> memoryview:
        """Writable bytes of one local block, for an engine that knows what it may touch."""
        return self._memory.view(block)

    def take_received(self, *, deadline_s: float) -> Received | None:
        """The next transfer that arrived here; None when none comes in time. The oldest of 1024 is dropped."""
        return self._inbox.take(deadline_s=deadline_s)

    def num_control_calls(self, peer: PeerInfo) -> int:
        """Requests sent to this peer so far, the handshake not counted."""
        return self._links.num_calls(peer.endpoint)

    @property
    def arena(self) -> ArenaRef | None:
        """What this instance's own workers need to map the DRAM tier."""
        return self._arena

    def stats(self) -> PoolStats:
        with self._core.lock:
            sessions = self._core.sessions.stats()
            return PoolStats(
                tiers=self._core.ledger.stats(),
                num_leases=self._core.ledger.num_leases,
                num_transfers_open=sessions.num_open,
                num_handoffs=sessions.num_handoffs,
                num_notices_dropped=self._inbox.num_dropped,
                num_reports_dropped=self.membership.num_dropped,
                num_offloaded=self.offload.num_offloaded,
                disk=self.tiers.stats(),
            )

    def resize(self, dram_bytes: int) -> None:
        """Grow or shrink the DRAM tier to as many whole blocks as fit; peers need not be told.

        Shrinking evicts what is least wanted. Raises PoolExhausted with what is in the way, ConfigError.
        """
        self._receiver.admin.resizing.resize(dram_bytes)

    # ------------------------------------------------------------ never waits

    def pull(
        self, peer: PeerInfo, tokens: bytes, *, namespace: Namespace = b"", deadline_s: float = PULL_DEADLINE_S
    ) -> "Future[int]":
        """Have a peer send what it holds of the whole blocks of `tokens` and this pool lacks, into the DRAM tier.

        Gives how many tokens came, indexed here by then. Fails after `deadline_s` at the latest; what comes later
        is indexed all the same, a failure leaves nothing behind. Raises InstanceUnavailable after close.
        """
        return self._puller.pull(peer, tokens, namespace=namespace, deadline_s=deadline_s)

    def path_to(self, peer: PeerInfo) -> DataPath | None:
        """How this pool takes blocks from that peer and brings KV to it; None when no path leads there."""
        return self._paths.describe(peer).path

    # ------------------------------------------------------------ membership

    def report(self, report: RequestReport) -> None:
        """Queue a report for the cluster manager; dropped when this pool has not joined one."""
        self.membership.report(report)

    # ------------------------------------------------------------ lifecycle

    def close(self) -> None:
        """Leave the cluster, stop serving, save DRAM to disk, unlink the shared memory; idempotent."""
        self._agent.close()
        self._puller.close()
        self._receiver.close()
        self.tiers.close()
        self._memory.close()

    def __enter__(self) -> "MemPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"MemPool({self._instance}/{self._incarnation}, {self.info.endpoint}, {self._core.ledger})"

    # ------------------------------------------------------------ inside

    def _start(self, identity: KvIdentity) -> PeerInfo:
        try:
            self.tiers.restore()
            data = self._paths.start()
            endpoint = self._agent.start()
            if self._arena is not None and self._paths.allows(DataPath.SHM):
                self._receiver.listen(self._arena)
        except BaseException:
            self._receiver.close()
            self.tiers.close()
            self._memory.close()
            raise
        return PeerInfo(
            instance=self._instance,
            incarnation=self._incarnation,
            endpoint=endpoint,
            identity=identity,
            arena=self._arena if self._paths.allows(DataPath.SHM) else None,
            data=data,
            nixl=self._paths.allows(DataPath.NIXL),
        )

    def _new_receiver(self) -> Receiver:
        return Receiver(
            core=self._core,
            local=lambda: self.info,
            paths=self._paths,
            inbox=self._inbox,
            puller=lambda: self._puller,
            links=self._links,
        )

    def _new_membership(self, network: Network) -> Membership:
        return Membership(
            agent=self._agent,
            local=lambda: self.info,
            peer_died=self._receiver.peer_left,
            use_memory=self.offload.use,
            secret=network.secret,
        )

    def _new_sender(self) -> TransferSender:
        return TransferSender(
            agent=self._agent, links=self._links, core=self._core, addresses=self._addresses, paths=self._paths
        )

    def _new_puller(self) -> Puller:
        return Puller(
            agent=self._agent,
            links=self._links,
            core=self._core,
            sender=self._sender,
            addresses=self._addresses,
            tiers=self.tiers,
        )

    def _new_paths(self, paths: tuple[DataPath, ...], *, cluster: str, network: Network) -> DataPaths:
        name = f"{cluster}/{self._instance}/{self._incarnation}"
        return DataPaths(paths, name=name, core=self._core, network=network, clock=SystemClock())

    def _new_agent(self, network: Network) -> Agent:
        return Agent(
            name=f"memserve-{self._instance}",
            network=network,
            handler=self._receiver.handle,
            tickers=(
                Ticker(_EXPIRY_S, self._expire),
                Ticker(TICK_S, self.tiers.tick),
                Ticker(TICK_S, self.offload.tick),
                Ticker(_REFRESH_S, self._links.refresh),
                Ticker(AGAIN_S, self._aborts.tick),
                Ticker(COLLECT_S, self._receiver.publisher.tick),
            ),
            at_close=self._links.close,
        )

    async def _expire(self) -> None:
        self._core.expire()

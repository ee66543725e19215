"""Whether bytes really get from this pool to its peers: one block through every path, checked where it arrives.

    asked by the manager: for each peer and path, fill a block ──> ProbeRequest (where it lies, its checksum)
    at the peer: fetch it by that path into memory of its own ───> ProbeReply (arrived, or what went wrong)

Owns the probes of one pool, both halves. A path that fails is not chosen for that peer any more, on either
side, until a later probe succeeds: what is left takes its place, and where nothing is left KV is not moved. No
index and no block of the peer is touched.
"""

import asyncio
import itertools
import time
from collections.abc import Callable

import xxhash

from memserve.core.enums import DataPath, Tier
from memserve.core.errors import InstanceUnavailable, MemserveError
from memserve.core.ids import BlockId, TransferId, block_index
from memserve.instance.core import PoolCore
from memserve.instance.data_paths import DataPaths
from memserve.instance.peer_links import PeerLinks
from memserve.transport.base import Offer, RunCopy
from memserve.wire.messages import (
    PathCheck,
    PeerInfo,
    ProbeReply,
    ProbeRequest,
    SelfTestReply,
    SelfTestRequest,
)

_PROBE_S = 5.0
_AT_ONCE = 4
_OWNER = "self-test"


class SelfTest:
    """Of one pool; lives in the agent's event loop."""

    def __init__(self, *, core: PoolCore, links: PeerLinks, paths: DataPaths, local: Callable[[], PeerInfo]) -> None:
        self._core = core
        self._links = links
        self._paths = paths
        self._local = local
        self._numbers = itertools.count(1)
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def run(self, message: SelfTestRequest) -> SelfTestReply:
        """One check for each peer and path. Raises InstanceUnavailable for another incarnation, PoolExhausted."""
        local = self._local()
        if (message.instance, message.incarnation) != (local.instance, local.incarnation):
            raise InstanceUnavailable(
                f"{message.instance}/{message.incarnation} is gone: this is {local.instance}/{local.incarnation}"
            )
        with self._core.lock:
            (block,) = self._core.ledger.allocate(1, tier=Tier.DRAM, owner=_OWNER)
        try:
            checksum = self._fill(block)
            pairs = itertools.product(message.peers, self._paths.names)
            checks = await asyncio.gather(*(self._check(peer, path, block, checksum) for peer, path in pairs))
        finally:
            with self._core.lock:
                self._core.ledger.free([block])
        return SelfTestReply(checks=tuple(checks))

    async def answer(self, message: ProbeRequest, peer: PeerInfo) -> ProbeReply:
        """The peer's half."""
        transport = self._paths.find(message.path)
        if transport is None or not transport.reaches(peer):
            return ProbeReply(is_possible=False)
        target = bytearray(self._core.memory.block_bytes)
        copy = RunCopy(
            source_index=block_index(message.block), target=memoryview(target), checksums=(message.checksum,)
        )
        offer = Offer(peer=peer, transfer=message.transfer, ticket=message.ticket)
        try:
            await asyncio.to_thread(transport.fetch, offer, [copy])
        except MemserveError as error:
            self._paths.avoid(peer, message.path)
            return ProbeReply(is_possible=True, fault=str(error))
        self._paths.trust(peer, message.path)
        return ProbeReply(is_possible=True)

    def _fill(self, block: BlockId) -> int:
        """Contents that no other block has by chance; their checksum."""
        view = self._core.memory.view(block)
        seed = f"{self._local().instance}/{self._local().incarnation}/{next(self._numbers)}".encode()
        pattern = xxhash.xxh3_128_digest(seed)
        view[:] = (pattern * (len(view) // len(pattern) + 1))[: len(view)]
        return xxhash.xxh3_64_intdigest(view)

    async def _check(self, peer: PeerInfo, path: DataPath, block: BlockId, checksum: int) -> PathCheck:
        local = self._local()
        transfer = TransferId(f"probe/{local.instance}/{local.incarnation}/{next(self._numbers)}")
        begin = time.monotonic()
        async with self._slots:
            try:
                with self._paths.offer(transfer, [block]) as ticket:
                    request = ProbeRequest(transfer=transfer, block=block, checksum=checksum, path=path, ticket=ticket)
                    reply = await self._links.call(peer, request, ProbeReply, deadline_s=_PROBE_S)
            except MemserveError as error:
                reply, answered = ProbeReply(is_possible=True, fault=str(error)), False
            else:
                answered = True
        if reply.is_possible and not reply.fault:
            self._paths.trust(peer, path)
        elif answered and reply.fault:
            self._paths.avoid(peer, path)
        return PathCheck(
            source=local.instance,
            target=peer.instance,
            path=path,
            is_possible=reply.is_possible,
            answered=answered,
            fault=reply.fault,
            seconds=time.monotonic() - begin,
        )

    def __repr__(self) -> str:
        return f"SelfTest({self._paths})"

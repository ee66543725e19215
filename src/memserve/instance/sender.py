"""The sender's half of transfer and transfer_with_insert: one request, one reply.

Shows the receiver where the blocks lie and what their checksums are, and lets it fetch them, by whichever
path leads there, for the time of the call. Blocks of another tier than DRAM are copied there meanwhile.
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import msgspec

from memserve.core.enums import Tier
from memserve.core.errors import InvalidBlocks, LineUnavailable, NotIntroduced
from memserve.core.ids import BlockId, TransferId, block_tier
from memserve.instance.addresses import Addresses
from memserve.instance.agent import Agent
from memserve.instance.checksums import BlockChecksums
from memserve.instance.core import PoolCore
from memserve.instance.data_paths import DataPaths
from memserve.instance.locked_ledger import LockedLedger
from memserve.instance.peer_links import PeerLinks
from memserve.pool.block import by_tier
from memserve.wire.identity import Namespace
from memserve.wire.messages import BlockList, PeerInfo, TransferReply, TransferRequest

_DEADLINE_S = 30.0


class Pulled(msgspec.Struct, frozen=True, kw_only=True):
    """What the receiver wants of a transfer that it has asked for."""

    transfer: TransferId
    num_held_blocks: int
    """Leading blocks of the tokens that it has: not among the source blocks."""
    deadline_s: float


class TransferSender:
    """Sends blocks of one pool."""

    def __init__(
        self, *, agent: Agent, links: PeerLinks, core: PoolCore, addresses: Addresses, paths: DataPaths
    ) -> None:
        self._agent = agent
        self._links = links
        self._ledger = LockedLedger(core.ledger, core.lock)
        self._memory = core.memory
        self._addresses = addresses
        self._paths = paths
        self._checksums = BlockChecksums(ledger=self._ledger, memory=self._memory, threads=paths.threads)
        self._numbers = itertools.count(1)

    def send(
        self,
        to: PeerInfo,
        source: BlockList,
        *,
        tier: Tier,
        tokens: bytes | None,
        destination: BlockList | None = None,
        namespace: Namespace = b"",
        private: bytes = b"",
        pulled: Pulled | None = None,
    ) -> BlockList:
        """Where the blocks are at the receiver.

        Raises InvalidBlocks for source blocks that hold nothing to read, what the receiver refuses it for,
        DeadlineExceeded.
        """
        self._addresses.readable(source)
        if destination is not None and (destination.instance, destination.incarnation) != (to.instance, to.incarnation):
            raise InvalidBlocks(
                f"the destination blocks are {destination.instance}'s, the receiver is {to.instance}/{to.incarnation}"
            )
        own_name = TransferId(f"{source.instance}/{source.incarnation}/{next(self._numbers)}")
        transfer = own_name if pulled is None else pulled.transfer
        with self._mappable(source) as shown, self._paths.offer(transfer, shown.blocks) as ticket:
            request = TransferRequest(
                transfer=transfer,
                source=shown,
                tier=tier,
                checksums=self._checksums.of(source.blocks, copies=shown.blocks),
                destination=destination.blocks if destination else None,
                tokens=tokens,
                namespace=namespace,
                private=private,
                ticket=ticket,
                num_held_blocks=0 if pulled is None else pulled.num_held_blocks,
                notify=pulled is None,
            )
            deadline_s = _DEADLINE_S if pulled is None else pulled.deadline_s
            reply = self._ask(to, request, deadline_s)
        return BlockList(instance=to.instance, incarnation=to.incarnation, blocks=reply.blocks)

    def _ask(self, to: PeerInfo, request: TransferRequest, deadline_s: float) -> TransferReply:
        """By a line on one host; through the control connection elsewhere, and whenever nobody has said hello."""
        self._agent.check_may_wait()
        try:
            reply = self._links.call_by_line(to, request, TransferReply, deadline_s=deadline_s)
        except (LineUnavailable, NotIntroduced):
            return self._agent.wait(self._call(to, request, deadline_s))
        if request.tokens is None and not self._links.is_holding(to):
            self._agent.call_soon(partial(self._links.mark_holding, to))
        return reply

    async def _call(self, to: PeerInfo, request: TransferRequest, deadline_s: float) -> TransferReply:
        reply = await self._links.call(to, request, TransferReply, deadline_s=deadline_s)
        if request.tokens is None:
            self._links.mark_holding(to)
        return reply

    @contextmanager
    def _mappable(self, source: BlockList) -> Iterator[BlockList]:
        if all(tier is Tier.DRAM for tier, _ in by_tier(source.blocks)):
            yield source
            return
        private = [block for block in source.blocks if block_tier(block) is not Tier.DRAM]
        staged = self._ledger.allocate(len(private), tier=Tier.DRAM, owner="staging")
        try:
            for block, copy in zip(private, staged, strict=True):
                self._memory.copy(block, copy)
            shown: dict[BlockId, BlockId] = dict(zip(private, staged, strict=True))
            yield BlockList(
                instance=source.instance,
                incarnation=source.incarnation,
                blocks=tuple(shown.get(block, block) for block in source.blocks),
            )
        finally:
            self._ledger.free(staged)

    def __repr__(self) -> str:
        return f"TransferSender({self._links})"

"""Room for blocks: what leaves the index when space is short, and what becomes of its blocks.

Decides by the eviction queue, prunes the index, announces it and frees what no lease reads any more. Knows
nothing of owners or deadlines.
"""

from memserve.core.enums import Tier
from memserve.core.errors import InvariantError, PoolExhausted
from memserve.core.ids import BlockId
from memserve.pool.block import BlockState
from memserve.pool.events import EventLog
from memserve.pool.eviction_queue import EvictionQueue
from memserve.pool.expiry import Lifetimes
from memserve.pool.radix_index import Pruned, RadixIndex
from memserve.pool.radix_node import Anchor, Node
from memserve.pool.reclaim import ProtectedBlocks, Reclaimer
from memserve.pool.stock import BlockStock


class RoomMaker:
    """Evicts from one pool's index. All of its parts belong to the ledger."""

    def __init__(
        self,
        *,
        index: RadixIndex,
        stock: BlockStock,
        queue: EvictionQueue,
        events: EventLog,
    ) -> None:
        self._index = index
        self._stock = stock
        self._queue = queue
        self.protected = ProtectedBlocks(index.anchors)
        self.lifetimes = Lifetimes()
        self.pins: set[Anchor] = set()
        """Anchors that protect but read nothing."""
        self._events = events

    def __repr__(self) -> str:
        return f"RoomMaker({self._stock!r})"

    def is_short(self, num_blocks: int, tier: Tier) -> bool:
        """Taking that many would evict."""
        return num_blocks > self._stock.num_free(tier)

    def take(self, num_blocks: int, tier: Tier, state: BlockState) -> tuple[BlockId, ...]:
        """That many blocks, in `state` from now on, or none. Raises PoolExhausted, and InvalidBlocks below 1."""
        if self.is_short(num_blocks, tier):
            self._make_room(num_blocks, tier)
        return self._stock.take(num_blocks, tier, state)

    def unindexed(self, pruned: Pruned) -> None:
        """The index let these blocks go: they are free, or once the leases that cover them have ended."""
        self.lifetimes.forget(pruned.blocks)
        for anchor, lost in pruned.displaced:
            if anchor not in self.pins:
                self._stock.detach(lost, anchor)
        self._stock.unindex(pruned.blocks)

    def prune(self, node: Node, keep: int) -> int:
        """The index gives up all but the first `keep` blocks of `node`, and all below; returns how many blocks."""
        namespace, tokens = self._index.path(node, keep + 1)
        pruned = self._index.prune(node, keep)
        self.unindexed(pruned)
        self._events.evicted(namespace=namespace, tokens=tokens, num_blocks=len(pruned.blocks))
        return len(pruned.blocks)

    def expire(self, now: float) -> int:
        """Take out of the index what has outlived its time; how many blocks."""
        num_blocks = 0
        while (block := self.lifetimes.due(now)) is not None:
            num_blocks += self.prune(*self._index.locate(block))
        return num_blocks

    def drop_anchor(self, anchor: Anchor) -> None:
        """It protects nothing any more; what only it still read is free."""
        nodes = [node for node, _ in anchor.path()]
        self._index.release(anchor)
        for node in nodes:
            self._queue.unpark(node)
        self._stock.end_reads(anchor)

    def release_pin(self, anchor: Anchor) -> None:
        self.pins.discard(anchor)
        self.drop_anchor(anchor)

    def _make_room(self, num_blocks: int, tier: Tier) -> None:
        """Evict until that many blocks are free, or raise PoolExhausted and evict none."""
        self._require_evictable(num_blocks, tier)
        reclaimer = Reclaimer(self._queue, tier)
        while (missing := num_blocks - self._stock.num_free(tier)) > 0:
            cut = reclaimer.next_cut(missing)
            if cut is None:
                raise InvariantError(f"{missing} evictable blocks of {tier.name} are not in the eviction queue")
            self._cut(cut.node, cut.keep)
        reclaimer.close()

    def _require_evictable(self, num_blocks: int, tier: Tier) -> None:
        num_free, num_cached = self._stock.num_free(tier), self._stock.num_cached(tier)
        if num_blocks <= num_free + num_cached - self.protected.at_most(tier):
            return
        num_held = self.protected.exact(tier)
        if num_blocks > num_free + num_cached - num_held:
            raise PoolExhausted(
                f"{num_blocks} blocks of {tier.name} asked for: {num_free} are free, {num_cached} cached, "
                f"{num_held} of those leased, pinned or on the move; ask for fewer or release some"
            )

    def _cut(self, node: Node, keep: int) -> None:
        num_blocks = self.prune(node, keep)
        self._queue.evicted(num_blocks + self._index.num_blocks)

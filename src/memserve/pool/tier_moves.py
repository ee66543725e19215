"""Moves of blocks between the tiers of one pool: chosen, given room, and named by the index when they are done.

Owns the swaps that have not ended and what finishing one changes. Copies no bytes: the caller does that
between `begin...` and `finish`, or gives up with `cancel`.

    begin ──> (bytes are copied) ──> finish | cancel
"""

from collections.abc import Iterator, Mapping, Sequence, Set

from memserve.core.enums import Tier
from memserve.core.errors import InvalidBlocks, PoolExhausted
from memserve.core.ids import BlockId, block_tier
from memserve.pool.block import BlockState
from memserve.pool.events import EventLog
from memserve.pool.eviction_queue import EvictionQueue
from memserve.pool.lease import HoldBook
from memserve.pool.radix_index import Place, RadixIndex
from memserve.pool.radix_node import Anchor, Node, readers
from memserve.pool.reclaim import Reclaimer, Spot
from memserve.pool.room import RoomMaker
from memserve.pool.stock import BlockStock
from memserve.pool.swap import OpenSwaps, Swap, half_open_runs

_Readers = Mapping[Node, list[tuple[Anchor, int]]]
"""By node, the anchors that cover its blocks, and how many leading ones."""


class TierMoves:
    """Of one pool; shares its index, its stock and its leases."""

    def __init__(
        self,
        *,
        room: RoomMaker,
        stock: BlockStock,
        index: RadixIndex,
        queue: EvictionQueue,
        holds: HoldBook,
        events: EventLog,
    ) -> None:
        self._room = room
        self._stock = stock
        self._index = index
        self._queue = queue
        self._holds = holds
        self._events = events
        self._open = OpenSwaps()

    def __repr__(self) -> str:
        return f"TierMoves({self._open})"

    def __len__(self) -> int:
        """Swaps that have not ended."""
        return len(self._open)

    @property
    def targets(self) -> Set[BlockId]:
        """Blocks that are being filled. Not a copy."""
        return self._open.targets

    def anchors(self) -> Iterator[Anchor]:
        """What protects the sources of all open swaps."""
        return self._open.anchors()

    def begin(self, num_blocks: int, *, source: Tier, target: Tier) -> Swap:
        """Choose that many unleased historical blocks of `source`, the least wanted, and room in `target`.

        Raises PoolExhausted when either has too few, InvalidBlocks for fewer than 1 or the same tier.
        """
        if num_blocks < 1 or source is target:
            raise InvalidBlocks(f"cannot move {num_blocks} blocks from {source.name} to {target.name}")
        reclaimer = Reclaimer(self._queue, source)
        spots = reclaimer.victims(num_blocks)
        reclaimer.close()
        if len(spots) < num_blocks:
            raise PoolExhausted(
                f"{num_blocks} blocks to move out of {source.name}, {len(spots)} are cached and not leased there"
            )
        return self._begin(spots, target)

    def begin_with(self, blocks: Sequence[BlockId], *, target: Tier) -> Swap:
        """Make room in `target` for these historical blocks of other tiers.

        Raises InvalidBlocks for a block that is not indexed, there already or on the move, PoolExhausted.
        """
        unfit = [
            b for b in blocks if b in self._open.sources or self._stock.states.state(b) is not BlockState.HISTORICAL
        ]
        if not blocks or unfit or len(set(blocks)) != len(blocks) or any(block_tier(b) is target for b in blocks):
            raise InvalidBlocks(
                f"cannot move {len(blocks)} blocks to {target.name}: {len(unfit)} are not cached or on the move; "
                "give each once, cached in another tier"
            )
        return self._begin([Spot(*self._index.locate(block)) for block in blocks], target)

    def finish(self, swap: Swap, *, failed: Set[BlockId] = frozenset()) -> int:
        """The bytes are copied: the index names the targets, the sources go as soon as no lease reads them.

        Returns how many blocks lie in their target now. Sources in `failed` were not copied and stay; so does
        a block on its way to disk that a lease has begun to read, as no reader can map it there. A block that
        was deleted meanwhile stays deleted. Raises InvalidBlocks when the swap is not open.
        """
        if swap not in self._open:
            raise InvalidBlocks(f"swap {swap.id} of {len(swap.pairs)} blocks is not open: finished or cancelled before")
        self._room.protected.add(len(swap.pairs))
        covering = readers(self._holds.anchors())
        moved: dict[tuple[Node, Tier, Tier], list[int]] = {}
        num_moved = 0
        for source, target in swap.pairs:
            if source in failed or not self._may_move(source, target, covering):
                self._stock.give_back((target,), BlockState.RECEIVING)
                continue
            node, position = self._rename(source, target, BlockState.RECEIVING, covering)
            moved.setdefault((node, block_tier(source), block_tier(target)), []).append(position)
            num_moved += 1
        self._close(swap)
        self._announce(moved)
        return num_moved

    def replace(self, pairs: Sequence[tuple[BlockId, BlockId]]) -> None:
        """Name active blocks (second) where indexed ones of another tier with the same contents were (first)."""
        self._room.protected.add(len(pairs))
        covering = readers(self._index.anchors)
        moved: dict[tuple[Node, Tier, Tier], list[int]] = {}
        for old, new in pairs:
            node, position = self._rename(old, new, BlockState.ACTIVE, covering)
            moved.setdefault((node, block_tier(old), block_tier(new)), []).append(position)
        self._announce(moved)

    def cancel(self, swap: Swap) -> None:
        """Nothing was copied: the targets are free again. Nothing happens when the swap is not open."""
        if swap in self._open:
            self._stock.give_back([target for _, target in swap.pairs], BlockState.RECEIVING)
            self._close(swap)

    def _begin(self, spots: Sequence[Spot], target: Tier) -> Swap:
        sources = [spot.node.blocks[spot.position] for spot in spots]
        ends: dict[Node, int] = {}
        for node, position in spots:
            ends[node] = max(ends.get(node, 0), position + 1)
        anchors = [self._index.anchor(Place(node, end, [])) for node, end in ends.items()]
        self._room.protected.add(sum(offset for anchor in anchors for _, offset in anchor.path()))
        try:
            targets = self._room.take(len(sources), target, BlockState.RECEIVING)
        except PoolExhausted:
            for anchor in anchors:
                self._room.drop_anchor(anchor)
            raise
        return self._open.open(tuple(zip(sources, targets, strict=True)), anchors)

    def _close(self, swap: Swap) -> None:
        for anchor in self._open.close(swap):
            self._room.drop_anchor(anchor)

    def _may_move(self, source: BlockId, target: BlockId, covering: _Readers) -> bool:
        if self._stock.states.state(source) is not BlockState.HISTORICAL:
            return False
        if block_tier(target) is not Tier.DISK:
            return True
        node, position = self._index.locate(source)
        return not any(offset > position for _, offset in covering.get(node, ()))

    def _rename(self, source: BlockId, target: BlockId, start: BlockState, covering: _Readers) -> Spot:
        """`target`, which is in state `start`, is historical from now on, and `source` is not."""
        spot = Spot(*self._index.locate(source))
        self._index.replace(source, target)
        self._room.lifetimes.rename(source, target)
        self._stock.states.move((target,), start, BlockState.HISTORICAL)
        self._queue.add(spot.node, block_tier(target))
        for anchor, offset in covering.get(spot.node, ()):
            if offset > spot.position and anchor not in self._room.pins:
                self._stock.detach((source,), anchor)
        self._stock.unindex((source,))
        return spot

    def _announce(self, moved: Mapping[tuple[Node, Tier, Tier], list[int]]) -> None:
        for (node, source, target), positions in moved.items():
            for first, end in half_open_runs(positions):
                namespace, tokens = self._index.path(node, end)
                self._events.moved(
                    namespace=namespace, tokens=tokens, num_blocks=end - first, source=source, target=target
                )

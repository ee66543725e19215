"""Which indexed blocks can go, and in which order: for eviction, and for moves to another tier.

Reads the tree and the eviction queue, and puts back what it takes from the queue. Removes nothing
itself: the ledger prunes what `next_cut` names.
"""

from collections.abc import Iterable
from typing import NamedTuple

from memserve.core.enums import Tier
from memserve.core.ids import BlockId, block_tier
from memserve.pool.eviction_queue import EvictionQueue
from memserve.pool.radix_node import Anchor, Node, covered, is_anchored_below


class Cut(NamedTuple):
    """Prune `node` to its first `keep` blocks."""

    node: Node
    keep: int


class Spot(NamedTuple):
    """One block of the index: `node.blocks[position]`."""

    node: Node
    position: int


class Reclaimer:
    """Walks the eviction queue of one tier for as long as one call needs blocks."""

    def __init__(self, queue: EvictionQueue, tier: Tier) -> None:
        self._queue = queue
        self._tier = tier
        self._parked: list[Node] = []

    def __repr__(self) -> str:
        return f"Reclaimer({self._tier.name}, {len(self._parked)} nodes set aside)"

    def next_cut(self, num_blocks: int) -> Cut | None:
        """The next end of a leaf to go, with at most `num_blocks` blocks of the tier; None when no more can.

        Blocks of other tiers below the least wanted block of this one are wanted even less and go before it.
        """
        while (node := self._queue.pop(self._tier)) is not None:
            if num_in_tier(node.blocks, self._tier) == 0:
                continue
            self._parked.append(node)
            if is_anchored_below(node) or num_in_tier(node.blocks[node.num_anchored() :], self._tier) == 0:
                continue
            leaf = node
            while leaf.children:
                leaf = min(leaf.children.values(), key=_last_use)
            if leaf is not node:
                self._put_back(node)
            return Cut(leaf, _cut_position(leaf, self._tier, num_blocks))
        return None

    def victims(self, num_blocks: int) -> list[Spot]:
        """That many unprotected blocks of the tier, or as many as there are."""
        spots: list[Spot] = []
        while len(spots) < num_blocks and (node := self._queue.pop(self._tier)) is not None:
            positions = [i for i, block in enumerate(node.blocks) if block_tier(block) is self._tier]
            if not positions:
                continue
            self._parked.append(node)
            if not is_anchored_below(node):
                floor = node.num_anchored()
                free = [Spot(node, i) for i in reversed(positions) if i >= floor]
                spots += free[: num_blocks - len(spots)]
        return spots

    def close(self) -> None:
        """Put back every node that still is in the index."""
        for node in self._parked:
            if node.parent is not None:
                self._queue.add(node, self._tier)
        self._parked.clear()

    def _put_back(self, node: Node) -> None:
        self._parked.remove(node)
        self._queue.add(node, self._tier)


def num_protected(anchors: Iterable[Anchor], tier: Tier) -> int:
    """Blocks of the tier that at least one of the anchors covers."""
    return sum(num_in_tier(node.blocks[:offset], tier) for node, offset in covered(anchors).items())


def num_in_tier(blocks: list[BlockId], tier: Tier) -> int:
    if not blocks:
        return 0
    # The tier is in the highest bits: when the smallest and the largest id agree, all do.
    first, last = block_tier(min(blocks)), block_tier(max(blocks))
    if first is last:
        return len(blocks) if first is tier else 0
    return sum(block_tier(block) is tier for block in blocks)


def _cut_position(leaf: Node, tier: Tier, num_blocks: int) -> int:
    """How many blocks to keep, so that `num_blocks` of the tier go, or all that are not anchored."""
    keep, floor = len(leaf.blocks), leaf.num_anchored()
    if num_in_tier(leaf.blocks, tier) == keep:
        return max(floor, keep - num_blocks)
    while keep > floor and num_blocks > 0:
        keep -= 1
        num_blocks -= block_tier(leaf.blocks[keep]) is tier
    return keep


def _last_use(node: Node) -> int:
    return node.used_at

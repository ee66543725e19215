"""Which indexed blocks can go, and in which order: for eviction, and for moves to another tier.

Reads the tree and the eviction queue, and puts back what it takes from the queue unless anchors protect
it. Removes nothing itself: the ledger prunes what `next_cut` names.
"""

from collections.abc import Iterable, Sequence, Set
from typing import NamedTuple

from memserve.core.enums import Tier
from memserve.core.ids import BlockId, block_tier, make_block_id
from memserve.pool.eviction_queue import EvictionQueue
from memserve.pool.radix_node import Anchor, Node, covered, is_anchored_below

_ID_RANGES = {tier: (make_block_id(tier, 0, 0), make_block_id(tier, -1, 2**32 - 1)) for tier in Tier}


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
        self._taken: list[Node] = []

    def __repr__(self) -> str:
        return f"Reclaimer({self._tier.name}, {len(self._taken)} nodes to put back)"

    def next_cut(self, num_blocks: int) -> Cut | None:
        """The next end of a leaf to go, with at most `num_blocks` blocks of the tier; None when no more can.

        Blocks of other tiers below the least wanted block of this one are wanted even less and go before it.
        """
        self.close()
        node = self._next()
        if node is None:
            return None
        leaf = node
        while leaf.children:
            leaf = min(leaf.children.values(), key=_last_use)
        return Cut(leaf, _cut_position(leaf, self._tier, num_blocks))

    def victims(self, num_blocks: int) -> list[Spot]:
        """That many unprotected blocks of the tier, or as many as there are."""
        spots: list[Spot] = []
        while len(spots) < num_blocks and (node := self._next()) is not None:
            floor = node.num_anchored()
            positions = [i for i, block in enumerate(node.blocks) if i >= floor and block_tier(block) is self._tier]
            spots += [Spot(node, i) for i in reversed(positions)][: num_blocks - len(spots)]
        return spots

    def close(self) -> None:
        """Put back every node that still is in the index."""
        for node in self._taken:
            if node.parent is not None:
                self._queue.add(node, self._tier)
        self._taken.clear()

    def _next(self) -> Node | None:
        """The least wanted node with unprotected blocks of the tier."""
        while (node := self._queue.pop(self._tier)) is not None:
            if num_in_tier(node.blocks, self._tier) == 0:
                continue
            if has_unprotected(node, self._tier):
                self._taken.append(node)
                return node
            self._queue.park(node, self._tier)
        return None


class ProtectedBlocks:
    """How many blocks of a tier anchors protect: a bound at no cost, the exact number when that is not enough.

    The bound is the last exact number and all that could have come under protection since.
    """

    def __init__(self, anchors: Set[Anchor]) -> None:
        self._anchors = anchors
        self._bounds = dict.fromkeys(Tier, 0)

    def __repr__(self) -> str:
        return f"ProtectedBlocks(at most {max(self._bounds.values())} under {len(self._anchors)} anchors)"

    def add(self, num_blocks: int) -> None:
        """At most so many more, of whatever tier."""
        for tier in self._bounds:
            self._bounds[tier] += num_blocks

    def at_most(self, tier: Tier) -> int:
        return self._bounds[tier]

    def exact(self, tier: Tier) -> int:
        """Linear in the number of anchors."""
        self._bounds[tier] = num_protected(self._anchors, tier)
        return self._bounds[tier]


def num_protected(anchors: Iterable[Anchor], tier: Tier) -> int:
    """Blocks of the tier that at least one of the anchors covers."""
    return sum(num_in_tier(node.blocks[:offset], tier) for node, offset in covered(anchors).items())


def num_in_tier(blocks: Sequence[BlockId], tier: Tier) -> int:
    if not blocks:
        return 0
    # The tier is in the highest bits: what lies between the tier's smallest and largest id is of the tier.
    low, high = _ID_RANGES[tier]
    smallest, largest = min(blocks), max(blocks)
    if low <= smallest and largest <= high:
        return len(blocks)
    return sum(low <= block <= high for block in blocks)


def has_unprotected(node: Node, tier: Tier) -> bool:
    """True when no anchor covers at least one of the node's blocks of the tier."""
    return not is_anchored_below(node) and num_in_tier(node.blocks[node.num_anchored() :], tier) > 0


def _cut_position(leaf: Node, tier: Tier, num_blocks: int) -> int:
    """How many blocks to keep, so that `num_blocks` of the tier go, or all that are not anchored."""
    keep, floor = len(leaf.blocks), leaf.num_anchored()
    if num_in_tier(leaf.blocks, tier) == keep:
        return max(floor, keep - num_blocks)
    while keep > floor and num_blocks > 0:
        keep -= 1
        num_blocks -= num_in_tier(leaf.blocks[keep : keep + 1], tier)
    return keep


def _last_use(node: Node) -> int:
    return node.used_at

"""Nodes of the index in the order in which they should lose blocks, one heap per tier and ranking.

Owns the ticks that say when a node was used. A use does not touch the heaps: an entry whose rank
has grown since is put back when it comes up, so the cost per evicted node is logarithmic.

Every node that names a block of a tier is in that tier's heaps, or parked because anchors protect it,
or was popped by the caller, who adds it again: what is protected is looked at once, not at each call.
Entries of nodes that were removed, or popped by another ranking, are dropped when they come up, or in bulk.
"""

from heapq import heapify, heappop, heappush
from itertools import count

from memserve.core.enums import Tier
from memserve.pool.radix_node import Node
from memserve.pool.ranking import EvictionPolicy

_SLACK = 256
"""Entries that a heap may always have before it is searched for removed nodes."""

_Heap = list[tuple[tuple[int, ...], int, Node]]


class EvictionQueue:
    def __init__(self, policy: EvictionPolicy) -> None:
        self._policy = policy
        self._tick = 0
        self._serial = count()
        self._rankings = policy.rankings()
        self._heaps: dict[Tier, tuple[_Heap, ...]] = {tier: tuple([] for _ in self._rankings) for tier in Tier}
        self._limits = dict.fromkeys(Tier, _SLACK)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{max(map(len, heaps))} in {tier.name}" for tier, heaps in self._heaps.items() if any(heaps))
        return f"EvictionQueue({type(self._policy).__name__}, nodes: {sizes or 'none'})"

    def used(self, node: Node) -> None:
        """The prefix that ends in `node` was matched."""
        tick = self._tick
        while (parent := node.parent) is not None:
            tick += 1
            node.used_at = tick
            node.hits += 1
            node = parent
        self._tick = tick

    def inserted(self, node: Node) -> None:
        """The prefix that ends in `node` was inserted: a use as well."""
        self.used(node)
        while (parent := node.parent) is not None:
            node.inserted_at = node.used_at
            node = parent

    def add(self, node: Node, tier: Tier) -> None:
        """The node names a block of the tier. Nothing happens when it waits there already."""
        bit = 1 << tier
        if node.queued & bit:
            return
        heaps = self._heaps[tier]
        if max(map(len, heaps)) >= self._limits[tier]:
            self._clear_out(heaps, bit)
            self._limits[tier] = 2 * len(heaps[0]) + _SLACK
        node.queued |= bit
        for ranking, heap in zip(self._rankings, heaps, strict=True):
            heappush(heap, (ranking.rank(node), next(self._serial), node))

    def pop(self, tier: Tier) -> Node | None:
        """The next one, which no longer waits in this tier; None when no node is left."""
        chosen = self._policy.choose()
        heap, ranking = self._heaps[tier][chosen], self._rankings[chosen]
        bit = 1 << tier
        while heap:
            rank, _, node = heappop(heap)
            if node.parent is None or not node.queued & bit:
                continue
            current = ranking.rank(node)
            if current > rank:
                heappush(heap, (current, next(self._serial), node))
                continue
            node.queued &= ~bit
            return node
        return None

    def evicted(self, num_blocks: int) -> None:
        """Of so many blocks in the index, the node popped last loses some."""
        self._policy.evicted(num_blocks)

    def park(self, node: Node, tier: Tier) -> None:
        """Anchors protect all that a popped node has of the tier: leave it out until `unpark`."""
        node.parked |= 1 << tier

    def unpark(self, node: Node) -> None:
        """An anchor that covered the node is released: let it wait again where it was left out."""
        if not node.parked:
            return
        tiers = [tier for tier in Tier if node.parked & 1 << tier]
        node.parked = 0
        for tier in tiers:
            self.add(node, tier)

    @staticmethod
    def _clear_out(heaps: tuple[_Heap, ...], bit: int) -> None:
        """Leave one entry of each node that waits."""
        for heap in heaps:
            waiting = {entry[2]: entry for entry in heap if entry[2].parent is not None and entry[2].queued & bit}
            heap[:] = waiting.values()
            heapify(heap)

"""Nodes of the index in the order in which they should lose blocks, one heap per tier.

Owns the ticks that say when a node was used. A use does not touch the heaps: an entry whose rank
has grown since is put back when it comes up, so the cost per evicted node is logarithmic.

Every node that names a block of a tier is in that tier's heap, or parked because anchors protect it,
or was popped by the caller, who adds it again: what is protected is looked at once, not at each call.
Entries of removed nodes are dropped when they come up, or in bulk.
"""

from heapq import heapify, heappop, heappush
from itertools import count

from memserve.core.enums import Tier
from memserve.pool.eviction import EvictionPolicy
from memserve.pool.radix_node import Node

_SLACK = 256
"""Entries that a heap may always have before it is searched for removed nodes."""


class EvictionQueue:
    def __init__(self, policy: EvictionPolicy) -> None:
        self._policy = policy
        self._tick = 0
        self._serial = count()
        self._heaps: dict[Tier, list[tuple[tuple[int, ...], int, Node]]] = {tier: [] for tier in Tier}
        self._limits = dict.fromkeys(Tier, _SLACK)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{len(heap)} in {tier.name}" for tier, heap in self._heaps.items() if heap)
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
        heap = self._heaps[tier]
        if len(heap) >= self._limits[tier]:
            heap[:] = [entry for entry in heap if entry[2].parent is not None]
            heapify(heap)
            self._limits[tier] = 2 * len(heap) + _SLACK
        node.queued |= bit
        heappush(heap, (self._policy.rank(node), next(self._serial), node))

    def pop(self, tier: Tier) -> Node | None:
        """The next one, which no longer waits in this tier; None when no node is left."""
        heap = self._heaps[tier]
        while heap:
            rank, _, node = heappop(heap)
            if node.parent is None:
                continue
            current = self._policy.rank(node)
            if current > rank:
                heappush(heap, (current, next(self._serial), node))
                continue
            node.queued &= ~(1 << tier)
            return node
        return None

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

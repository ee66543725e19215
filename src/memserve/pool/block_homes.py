"""Which node names a block. Costs nothing until somebody asks.

Matches and inserts, the frequent calls, need no way from a block to its node; moves between tiers
do. So the table is made at the first question and brought up to date at each further one, from the
nodes that changed since. Entries of blocks that are gone are recognised and dropped in bulk.
"""

from collections.abc import Callable, Iterable

from memserve.core.ids import BlockId
from memserve.pool.radix_node import Node

_SLACK = 1024
"""Changed nodes and dead entries that are kept whatever the size of the index."""


class BlockHomes:
    """Block -> node, lazily. `nodes` gives all nodes of the index as it is now."""

    def __init__(self, nodes: Callable[[], Iterable[Node]]) -> None:
        self._nodes = nodes
        self._homes: dict[BlockId, Node] | None = None
        self._changed: list[Node] = []
        self._limit = 0

    def __repr__(self) -> str:
        return f"BlockHomes({len(self._homes or ())} known, {len(self._changed)} nodes changed since)"

    def changed(self, node: Node) -> None:
        """The node has blocks that it did not have before."""
        if self._homes is None:
            return
        self._changed.append(node)
        if len(self._changed) > _SLACK + len(self._homes):
            self._homes = None
            self._changed.clear()

    def add(self, block: BlockId, node: Node) -> None:
        """The node has this one block more."""
        if self._homes is not None:
            self._homes[block] = node

    def find(self, block: BlockId) -> tuple[Node, int] | None:
        """The node and the position in its run, or None when no node names the block."""
        node = self._up_to_date().get(block)
        if node is None or block not in node.blocks:
            return None
        return node, node.blocks.index(block)

    def _up_to_date(self) -> dict[BlockId, Node]:
        homes = self._homes
        if homes is None or len(homes) > self._limit:
            homes = self._homes = {block: node for node in self._nodes() for block in node.blocks}
            self._limit = 2 * len(homes) + _SLACK
        for node in self._changed:
            homes.update(dict.fromkeys(node.blocks, node))
        self._changed.clear()
        return homes

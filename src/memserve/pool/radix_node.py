"""Parts of the radix index: nodes that hold a run of blocks, and anchors that protect a prefix.

    root --- node [b0 b1 b2] --+-- node [b3 b4]
                   ^           +-- node [b5]
                   anchor (node, 2): b0 and b1 may not go

A node owns the half-open range [0, len(blocks)) of its run. Only leaves lose blocks, from their
end, so protecting one point protects everything from the root to it.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from memserve.core.ids import BlockId
from memserve.wire.identity import Namespace

NO_CHILDREN: Final[dict[int, "Node"]] = {}
"""Shared by all leaves, never written to: a leaf without a dict of its own is 64 bytes smaller."""


class Node:
    """A run of blocks that no prompt leaves in the middle, as far as the index has seen."""

    __slots__ = ("anchors", "blocks", "children", "hits", "inserted_at", "parent", "parked", "queued", "run", "used_at")

    def __init__(self, *, parent: "Node | None", run: bytes, blocks: tuple[BlockId, ...]) -> None:
        self.parent = parent
        """None for a root and for a node that was removed."""
        self.run = run
        """Token bytes of all blocks."""
        self.blocks = blocks
        self.children = NO_CHILDREN
        """By the hash of the first block's token bytes, or the next free number: see `child_at`."""
        self.anchors: set[Anchor] | None = None
        self.used_at = 0
        """Ticks of the eviction queue, not seconds; a parent's is above its children's."""
        self.inserted_at = 0
        self.hits = 0
        self.queued = 0
        """Bit per tier: waits in that tier's eviction queue."""
        self.parked = 0
        """Bit per tier: left that queue because anchors protect it, until one of them is released."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.blocks)} blocks, {len(self.children)} children)"

    def child_at(self, data: bytes, position: int, width: int) -> "Node | None":
        """The child whose first block, of `width` bytes, is what `data` has at `position`.

        Keys are hashes, a quarter of the size of the tokens that they stand for; as blocks are compared, two
        that share one cost a look at the next number and nothing else.
        """
        key = hash(data[position : position + width])
        while (child := self.children.get(key)) is not None:
            if data.startswith(child.run[:width], position):
                return child
            key += 1
        return None

    def add_child(self, first: bytes, child: "Node") -> None:
        """`first`: token bytes of its first block, with which no other child begins."""
        key = hash(first)
        while key in self.children:
            key += 1
        if self.children is NO_CHILDREN:
            self.children = {key: child}
        else:
            self.children[key] = child

    def replace_child(self, first: bytes, child: "Node") -> None:
        """`child` takes the place of the one whose first block is `first`."""
        self.children[self._key_of(first)] = child

    def remove_child(self, first: bytes) -> None:
        """Those that a shared hash had put after it move up."""
        key = self._key_of(first)
        del self.children[key]
        while (moved := self.children.pop(key := key + 1, None)) is not None:
            self.add_child(moved.run[: len(first)], moved)

    def _key_of(self, first: bytes) -> int:
        key = hash(first)
        while not self.children[key].run.startswith(first):
            key += 1
        return key

    def num_anchored(self) -> int:
        """Leading blocks that anchors at this very node protect."""
        return max((anchor.offset for anchor in self.anchors), default=0) if self.anchors else 0


class Root(Node):
    """The start of one namespace: no tokens, no blocks."""

    __slots__ = ("namespace",)

    def __init__(self, namespace: Namespace) -> None:
        super().__init__(parent=None, run=b"", blocks=())
        self.namespace = namespace


class Anchor:
    """Protects the blocks from the root to the first `offset` ones of `node`. Follows splits."""

    __slots__ = ("detached", "node", "offset")

    def __init__(self, node: Node, offset: int) -> None:
        self.node = node
        self.offset = offset
        self.detached: list[BlockId] = []
        """Blocks that it covered when the index let them go; their bytes wait for its release."""

    def __repr__(self) -> str:
        return f"Anchor({self.offset} blocks of {self.node!r}, {len(self.detached)} detached)"

    def path(self) -> Iterator[tuple[Node, int]]:
        """Each node from the anchor up, with how many of its leading blocks are covered."""
        node, offset = self.node, self.offset
        while node.parent is not None:
            yield node, offset
            node = node.parent
            offset = len(node.blocks)


def covered(anchors: Iterable[Anchor]) -> dict[Node, int]:
    """How many leading blocks of which nodes these anchors protect together."""
    cover: dict[Node, int] = {}
    for anchor in anchors:
        for node, offset in anchor.path():
            before = cover.get(node, 0)
            if before == len(node.blocks):
                break
            cover[node] = max(before, offset)
    return cover


def readers(anchors: Iterable[Anchor]) -> dict[Node, list[tuple[Anchor, int]]]:
    """By node, the anchors that cover its blocks, and how many leading ones."""
    found: dict[Node, list[tuple[Anchor, int]]] = {}
    for anchor in anchors:
        for node, offset in anchor.path():
            found.setdefault(node, []).append((anchor, offset))
    return found


def subtree(top: Node) -> Iterator[Node]:
    """`top` and all nodes below it, parents first. The tree must not change meanwhile."""
    waiting = [top]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(node.children.values())


def is_anchored_below(top: Node) -> bool:
    """True when an anchor under `top` (not at it) protects all of its blocks."""
    return any(node.anchors for child in top.children.values() for node in subtree(child))

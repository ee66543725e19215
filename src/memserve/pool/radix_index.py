"""The radix index of one pool: token prefix -> blocks, whole blocks at a time, exact.

Owns the tree, and which node names which block. It compares token bytes, never hashes alone, so
a match is always the asked prompt. Never decides what may go: callers prune what no anchor covers.

Lifecycle of a node: made by an insert or a split, shortened or removed by `prune`. Each block is
in one node; a prefix that is indexed has all of its blocks indexed.
"""

from collections.abc import Iterator, Sequence, Set
from typing import NamedTuple

import msgspec

from memserve.core.errors import ConfigError, InvalidBlocks, InvalidTokens, InvariantError
from memserve.core.ids import BlockId
from memserve.pool.block_homes import BlockHomes
from memserve.pool.radix_node import NO_CHILDREN, Anchor, Node, Root, subtree
from memserve.pool.tokens import TOKEN_BYTES, Tokens, copy_token_bytes, require_token_ids
from memserve.wire.identity import Namespace

GROW_LEAF_BLOCKS = 8
"""A leaf takes additions up to this size into its own run: appending one by one makes no chain."""


class Insertion(msgspec.Struct, frozen=True, kw_only=True):
    """What an insert changed. Positions that held the very same block are neither new nor duplicates."""

    num_new: int
    duplicates: tuple[BlockId, ...]
    """Given blocks whose position is indexed with another block: the first copy stays."""


class Place(NamedTuple):
    """The end of a matched prefix: the first `offset` blocks of `node`, and all blocks up to there."""

    node: Node
    offset: int
    blocks: list[BlockId]


class Pruned(NamedTuple):
    """Blocks that the index no longer names, and the anchors that covered some of them."""

    blocks: list[BlockId]
    displaced: list[tuple[Anchor, list[BlockId]]]


class RadixIndex:
    """Path-compressed tree over whole blocks of `block_size` tokens; one root per namespace."""

    def __init__(self, *, block_size: int) -> None:
        if block_size < 1:
            raise ConfigError(f"block size {block_size}: a block holds at least 1 token")
        self.block_size = block_size
        self.block_token_bytes = block_size * TOKEN_BYTES
        """Bytes of the tokens of one block."""
        self._roots: dict[Namespace, Root] = {}
        self._homes = BlockHomes(self.nodes)
        self._num_blocks = 0
        self._anchors: set[Anchor] = set()

    def __repr__(self) -> str:
        return (
            f"RadixIndex({self._num_blocks} blocks of {self.block_size} tokens in {sum(1 for _ in self.nodes())} "
            f"nodes, {len(self._roots)} namespaces)"
        )

    @property
    def num_blocks(self) -> int:
        return self._num_blocks

    @property
    def anchors(self) -> Set[Anchor]:
        """All that are not released. Not a copy."""
        return self._anchors

    def match(self, tokens: Tokens, *, namespace: Namespace = b"") -> tuple[BlockId, ...]:
        """Blocks of the longest indexed prefix; tokens after the last whole block do not count."""
        place = self.find(self.whole_blocks(tokens), namespace=namespace)
        return tuple(place.blocks) if place else ()

    def insert(self, tokens: Tokens, blocks: Sequence[BlockId], *, namespace: Namespace = b"") -> Insertion:
        """Index the first len(blocks) whole blocks of tokens. Raises InvalidTokens when there are fewer.

        The caller sees to it that no block gets two positions.
        """
        data = self.whole_blocks(tokens, num_blocks=len(blocks))
        place = self.find(data, namespace=namespace)
        num_held = len(place.blocks) if place else 0
        if num_held < len(blocks):
            self.graft(place, data, blocks[num_held:], namespace=namespace)
        duplicates = differing(blocks, place.blocks) if place else ()
        return Insertion(num_new=len(blocks) - num_held, duplicates=duplicates)

    def delete(self, tokens: Tokens, *, namespace: Namespace = b"") -> tuple[BlockId, ...]:
        """Remove the entry of the last whole block of tokens and all below it; the blocks that had entries.

        Nothing happens when the prefix is not indexed. Raises InvalidTokens below one whole block.
        """
        return tuple(self.prune_at(tokens, namespace=namespace).blocks)

    def replace(self, old: BlockId, new: BlockId) -> None:
        """Name `new` where `old` was named: the bytes moved. Raises InvalidBlocks when `old` is not indexed."""
        node, position = self.locate(old)
        node.blocks = (*node.blocks[:position], new, *node.blocks[position + 1 :])
        self._homes.add(new, node)

    def tokens_to(self, block: BlockId) -> bytes:
        """Tokens up to and including this block. Raises InvalidBlocks when it is not indexed."""
        node, position = self.locate(block)
        return self.path(node, position + 1)[1]

    # ------------------------------------------------------------ by place, for the ledger

    def whole_blocks(self, tokens: Tokens, *, num_blocks: int | None = None) -> bytes:
        """The whole blocks of `tokens` as bytes, or exactly the first `num_blocks` (InvalidTokens if fewer).

        Negative tokens come through: `find` refuses them.
        """
        data = copy_token_bytes(tokens)
        end = (
            len(data) - len(data) % self.block_token_bytes
            if num_blocks is None
            else num_blocks * self.block_token_bytes
        )
        if end > len(data):
            raise InvalidTokens(
                f"{num_blocks} blocks of {self.block_size} tokens need {end // TOKEN_BYTES} tokens, "
                f"{len(data) // TOKEN_BYTES} are given"
            )
        return data[:end]

    def find(self, data: bytes, *, namespace: Namespace) -> Place | None:
        """Where the longest indexed prefix of `data` ends; None when it has no block at all.

        Raises InvalidTokens for negative tokens, of which none is ever indexed: what matches holds none.
        """
        width, end, position = self.block_token_bytes, len(data), 0
        node: Node | None = self._roots.get(namespace)
        if node is None:
            require_token_ids(data)
            return None
        blocks: list[BlockId] = []
        offset, starts = 0, data.startswith
        while position < end:
            child = node.children.get(hash(data[position : position + width]))
            if child is None:
                break
            run = child.run
            if not starts(run, position):
                node, offset = _descend(node, data, position, blocks, width)
                break
            node, offset = child, -1
            blocks += child.blocks
            position += len(run)
        if len(blocks) * width < end:
            require_token_ids(data[len(blocks) * width :])
        return Place(node, len(node.blocks) if offset < 0 else offset, blocks) if blocks else None

    def graft(
        self, place: Place | None, data: bytes, blocks: Sequence[BlockId], *, namespace: Namespace
    ) -> tuple[Node, ...]:
        """Index `blocks` for the end of `data`, right after `place`. The node that has them now comes first,
        then the one that a split made, if any."""
        upper, made = self._branch_point(place, namespace)
        run = data[len(data) - len(blocks) * self.block_token_bytes :]
        self._num_blocks += len(blocks)
        if upper.parent is not None and not upper.children and len(blocks) <= GROW_LEAF_BLOCKS:
            upper.run += run
            upper.blocks += tuple(blocks)
            self._homes.changed(upper)
            return (upper, *made)
        child = Node(parent=upper, run=run, blocks=tuple(blocks))
        upper.add_child(run[: self.block_token_bytes], child)
        self._homes.changed(child)
        return (child, *made)

    def prune_at(self, tokens: Tokens, *, namespace: Namespace) -> Pruned:
        """`delete` for a caller that keeps anchors."""
        data = self.whole_blocks(tokens)
        if not data:
            raise InvalidTokens(f"delete needs at least one whole block of {self.block_size} tokens")
        place = self.find(data, namespace=namespace)
        if place is None or len(place.blocks) * self.block_token_bytes != len(data):
            return Pruned([], [])
        return self.prune(place.node, place.offset - 1)

    def prune(self, node: Node, keep: int) -> Pruned:
        """Remove all but the first `keep` blocks of `node`, and everything below it.

        Anchors that covered a removed block cover what is left of their prefix from now on.
        """
        displaced = [(anchor, _lost_by(anchor, node, keep)) for anchor in _anchors_past(node, keep)]
        removed = list(node.blocks[keep:])
        for below in subtree(node):
            if below is not node:
                removed += below.blocks
                below.parent, below.blocks, below.run, below.anchors = None, (), b"", None
        node.children = NO_CHILDREN
        rest = node if keep else self._unlink(node)
        node.blocks = node.blocks[:keep]
        node.run = node.run[: keep * self.block_token_bytes]
        self._num_blocks -= len(removed)
        for anchor, _ in displaced:
            _put(anchor, rest, len(rest.blocks))
        return Pruned(removed, displaced)

    def anchor(self, place: Place) -> Anchor:
        """Protect the prefix that ends at `place`. The anchor must be dropped by `release`."""
        anchor = Anchor(place.node, place.offset)
        _put(anchor, place.node, place.offset)
        self._anchors.add(anchor)
        return anchor

    def release(self, anchor: Anchor) -> None:
        """The anchor protects nothing any more. Harmless when repeated."""
        _take(anchor)
        self._anchors.discard(anchor)

    def locate(self, block: BlockId) -> tuple[Node, int]:
        """The node that names this block, and where in its run. Raises InvalidBlocks when none does."""
        found = self._homes.find(block)
        if found is None:
            raise InvalidBlocks(f"block {block:#x} is not in the index: never inserted, or evicted or deleted since")
        return found

    def path(self, node: Node, offset: int) -> tuple[Namespace, bytes]:
        """The namespace, and the tokens from its root to the first `offset` blocks of `node`."""
        runs = [node.run[: offset * self.block_token_bytes]]
        while (above := node.parent) is not None:
            runs.append(above.run)
            node = above
        return node.namespace if isinstance(node, Root) else b"", b"".join(reversed(runs))

    def nodes(self) -> Iterator[Node]:
        """All nodes but the roots. The tree must not change meanwhile."""
        for root in self._roots.values():
            for child in root.children.values():
                yield from subtree(child)

    def _branch_point(self, place: Place | None, namespace: Namespace) -> tuple[Node, tuple[Node, ...]]:
        if place is None:
            root = self._roots.get(namespace)
            if root is None:
                root = self._roots[namespace] = Root(namespace)
            return root, ()
        if place.offset == len(place.node.blocks):
            return place.node, ()
        upper = self._split(place.node, place.offset)
        return upper, (upper,)

    def _split(self, node: Node, offset: int) -> Node:
        """Give the first `offset` blocks to a new node above; `node` keeps the rest and its children."""
        parent = _parent_of(node)
        cut = offset * self.block_token_bytes
        upper = Node(parent=parent, run=node.run[:cut], blocks=node.blocks[:offset])
        upper.used_at, upper.inserted_at, upper.hits = node.used_at, node.inserted_at, node.hits
        parent.replace_child(node.run[: self.block_token_bytes], upper)
        node.run = node.run[cut:]
        node.blocks = node.blocks[offset:]
        node.parent = upper
        upper.add_child(node.run[: self.block_token_bytes], node)
        for anchor in tuple(node.anchors or ()):
            if anchor.offset <= offset:
                _put(anchor, upper, anchor.offset)
            else:
                anchor.offset -= offset
        self._homes.changed(upper)
        return upper

    def _unlink(self, node: Node) -> Node:
        parent = _parent_of(node)
        parent.remove_child(node.run[: self.block_token_bytes])
        node.parent = None
        if isinstance(parent, Root) and not parent.children:
            del self._roots[parent.namespace]
        return parent


def differing(given: Sequence[BlockId], held: Sequence[BlockId]) -> tuple[BlockId, ...]:
    """The given blocks, as far as positions are held, that are not the held ones."""
    if list(given[: len(held)]) == list(held[: len(given)]):
        return ()
    return tuple(mine for mine, there in zip(given, held, strict=False) if mine != there)


def _parent_of(node: Node) -> Node:
    if node.parent is None:
        raise InvariantError(f"{node!r} was removed from the index, or is a root")
    return node.parent


def _descend(node: Node, data: bytes, position: int, blocks: list[BlockId], width: int) -> tuple[Node, int]:
    """From the end of `node` on, where the prefix ends that `data` has at `position`; adds its blocks.

    Comes to the same as the loop of `find`, also where a run ends half-way or blocks share a hash.
    """
    offset = len(node.blocks)
    while (child := node.child_at(data, position, width)) is not None:
        node, offset = child, _num_common(child.run, data, position, width)
        blocks += node.blocks[:offset]
        position += offset * width
        if offset < len(node.blocks):
            break
    return node, offset


def _num_common(run: bytes, data: bytes, position: int, width: int) -> int:
    """Leading blocks of `run` that `data` has at `position`, by halving."""
    low, high = 0, min(len(run), len(data) - position) // width
    view = memoryview(run)
    while low < high:
        middle = (low + high + 1) // 2
        if data.startswith(view[low * width : middle * width], position + low * width):
            low = middle
        else:
            high = middle - 1
    return low


def _anchors_past(top: Node, keep: int) -> list[Anchor]:
    here = [anchor for anchor in top.anchors or () if anchor.offset > keep]
    return here + [anchor for node in subtree(top) if node is not top for anchor in node.anchors or ()]


def _lost_by(anchor: Anchor, top: Node, keep: int) -> list[BlockId]:
    """Blocks of the anchor's prefix from the first `keep` ones of `top` on."""
    lost: list[BlockId] = []
    for node, offset in anchor.path():
        lost += node.blocks[keep if node is top else 0 : offset]
        if node is top:
            break
    return lost


def _put(anchor: Anchor, node: Node, offset: int) -> None:
    _take(anchor)
    anchor.node, anchor.offset = node, offset
    if node.parent is None:
        return
    if node.anchors is None:
        node.anchors = set()
    node.anchors.add(anchor)


def _take(anchor: Anchor) -> None:
    anchors = anchor.node.anchors
    if anchors is None:
        return
    anchors.discard(anchor)
    if not anchors:
        anchor.node.anchors = None

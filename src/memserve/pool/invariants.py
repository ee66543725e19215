"""What must hold of a pool between any two calls. Raises InvariantError: then memserve has a bug.

Reads everything, changes nothing; linear in the size of the pool, so for tests and diagnosis.
"""

from collections.abc import Collection, Iterable, Mapping

from memserve.core.errors import InvariantError
from memserve.core.ids import BlockId, block_tier
from memserve.pool.block import BlockState
from memserve.pool.radix_index import RadixIndex
from memserve.pool.radix_node import Anchor, Node
from memserve.pool.reclaim import has_unprotected
from memserve.pool.stock import BlockStock
from memserve.pool.tokens import TOKEN_BYTES


def check_stock(stock: BlockStock, expected: Mapping[BlockState, Collection[BlockId]]) -> None:
    """Each block that is out is in the state that its one place says, and the counts add up."""
    for state, blocks in expected.items():
        members = stock.states.members(state)
        _require(len(blocks) == len(members), f"{len(blocks)} {state.value} blocks, {len(members)} in the table")
        _require(members.issuperset(blocks), f"a block is not {state.value}, though it is where those are")
    _require(stock.readers.keys() == set(expected[BlockState.DETACHED]), "detached blocks without readers")
    out = [block for blocks in expected.values() for block in blocks]
    _require(len(set(out)) == len(out), "a block is in two places")
    for tier, allocator in stock.allocators.items():
        mine = [block for block in out if block_tier(block) is tier]
        _require(all(map(allocator.is_used, mine)), f"a free block of {tier.name} is in use")
        _require(
            len(mine) + allocator.num_free == allocator.num_blocks,
            f"{tier.name}: {len(mine)} in use and {allocator.num_free} free of {allocator.num_blocks}",
        )
        counted = sum(stock.states.count(tier, state) for state in expected)
        _require(counted == len(mine), f"{tier.name}: {len(mine)} in use, {counted} counted")


def check_index(index: RadixIndex, anchors: Iterable[Anchor]) -> None:
    """The tree is a path-compressed tree, and its anchors are the given ones."""
    width = index.block_size * TOKEN_BYTES
    nodes = list(index.nodes())
    for node in nodes:
        _require(len(node.blocks) > 0, f"{node!r} is empty")
        _require(len(node.run) == len(node.blocks) * width, f"{node!r} has {len(node.run)} bytes of tokens")
        _require(node.parent is not None, f"{node!r} is in the tree without a parent")
        for child in node.children.values():
            found = node.child_at(child.run, 0, width)
            _require(child.parent is node and found is child, f"{child!r} is under the wrong key")
            _require(child.used_at <= node.used_at, f"{child!r} is used after its parent")
    num_blocks = sum(len(node.blocks) for node in nodes)
    _require(num_blocks == index.num_blocks, f"{num_blocks} blocks in the tree, {index.num_blocks} counted")
    _require(index.anchors == set(anchors), f"{len(index.anchors)} anchors, not those of the open leases and swaps")
    _check_anchors(nodes, index.anchors)


def check_queued(index: RadixIndex) -> None:
    """A node with a block that could go waits in the eviction queue of that block's tier."""
    for node in index.nodes():
        for tier in {block_tier(block) for block in node.blocks}:
            waits = bool((node.queued | node.parked) & 1 << tier)
            _require(waits, f"{node!r} is neither queued nor parked in {tier.name}")
            _require(
                bool(node.queued & 1 << tier) or not has_unprotected(node, tier),
                f"{node!r} cannot be evicted from {tier.name}: parked, and nothing protects it",
            )


def _check_anchors(nodes: Iterable[Node], anchors: Iterable[Anchor]) -> None:
    there = {anchor: node for node in nodes for anchor in node.anchors or ()}
    placed = {anchor: anchor.node for anchor in anchors if anchor.offset}
    _require(there == placed, f"{len(there)} anchors in the tree, {len(placed)} held")
    for anchor, node in there.items():
        _require(0 < anchor.offset <= len(node.blocks), f"{anchor!r} reaches beyond its node")


def _require(holds: bool, text: str) -> None:  # noqa: FBT001
    if not holds:
        raise InvariantError(text)

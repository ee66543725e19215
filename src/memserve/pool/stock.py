"""All blocks of one pool: which are out, in which state, and how many readers the detached ones have.

Owns the allocators and the state table and keeps them in step. Knows nothing of tokens or owners.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

from memserve.core.enums import Tier
from memserve.core.errors import PoolExhausted
from memserve.core.ids import BlockId, block_index, block_tier
from memserve.pool.allocator import BlockAllocator
from memserve.pool.block import BlockState, BlockStates, by_tier
from memserve.pool.radix_node import Anchor


class BlockStock:
    """Blocks of all tiers, `capacity` of each."""

    def __init__(self, capacity: Mapping[Tier, int]) -> None:
        self.allocators = {tier: BlockAllocator(tier=tier, num_blocks=n) for tier, n in sorted(capacity.items())}
        self.states = BlockStates()
        self.readers: dict[BlockId, int] = {}
        """Of detached blocks: how many anchors wait to be released."""
        self.left_on_disk: set[int] = set()
        """Positions of blocks that were freed on disk and not taken since: their bytes are still there."""

    def __repr__(self) -> str:
        return f"BlockStock({', '.join(map(repr, self.allocators.values()))}; {self.states!r})"

    def num_free(self, tier: Tier) -> int:
        allocator = self.allocators.get(tier)
        return allocator.num_free if allocator is not None else 0

    def num_cached(self, tier: Tier) -> int:
        return self.states.count(tier, BlockState.HISTORICAL)

    def take(self, num_blocks: int, tier: Tier, state: BlockState) -> tuple[BlockId, ...]:
        """Free blocks, in `state` from now on. Raises PoolExhausted, and InvalidBlocks below 1."""
        allocator = self.allocators.get(tier)
        if allocator is None:
            raise PoolExhausted(f"{num_blocks} blocks of {tier.name} asked for; this pool has none at all")
        blocks = allocator.allocate(num_blocks)
        if tier is Tier.DISK:
            self.left_on_disk.difference_update(map(block_index, blocks))
        self.states.move(blocks, BlockState.FREE, state, tier=tier)
        return blocks

    def give_back(self, blocks: Collection[BlockId], start: BlockState, *, tier: Tier | None = None) -> None:
        """Free them all; each must be in state `start`, and in `tier` if one is given."""
        if not blocks:
            return
        if tier is None:
            tiers = by_tier(blocks)
            tier = tiers[0][0] if len(tiers) == 1 else None
        self.states.move(blocks, start, BlockState.FREE, tier=tier)
        if tier is not None:
            self._free(blocks, tier)
            return
        for tier, _ in tiers:
            self._free([block for block in blocks if block_tier(block) is tier], tier)

    def retire(self, blocks: Collection[BlockId], start: BlockState) -> None:
        """Their tier shrinks by these blocks; each must be in state `start`."""
        self.states.move(blocks, start, BlockState.FREE)
        for tier, _ in by_tier(blocks):
            self.allocators[tier].retire([block for block in blocks if block_tier(block) is tier])

    def detach(self, blocks: Sequence[BlockId], anchor: Anchor) -> None:
        """The index lets these historical blocks go, but `anchor` covered them: keep them until it is released."""
        fresh = [block for block in blocks if block not in self.readers]
        self.states.move(fresh, BlockState.HISTORICAL, BlockState.DETACHED)
        for block in blocks:
            self.readers[block] = self.readers.get(block, 0) + 1
        anchor.detached += blocks

    def unindex(self, blocks: Iterable[BlockId]) -> None:
        """Free what the index let go, the detached ones among it left out."""
        readers = self.readers
        gone = [block for block in blocks if block not in readers] if readers else tuple(blocks)
        self.give_back(gone, BlockState.HISTORICAL)

    def end_reads(self, anchor: Anchor) -> None:
        """The anchor is released: free the detached blocks that it was the last to cover."""
        last = []
        for block in anchor.detached:
            self.readers[block] -= 1
            if not self.readers[block]:
                del self.readers[block]
                last.append(block)
        anchor.detached.clear()
        self.give_back(last, BlockState.DETACHED)

    def _free(self, blocks: Collection[BlockId], tier: Tier) -> None:
        self.allocators[tier].free(blocks)
        if tier is Tier.DISK:
            self.left_on_disk.update(map(block_index, blocks))

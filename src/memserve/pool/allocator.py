"""Free blocks of one tier. Knows which ids are out, never who has them or what they hold.

An id carries the generation of its block, which grows with each free: an id that was freed is
recognised for 2**28 further uses of its block. Blocks go and come while the tier shrinks and grows;
one that comes again goes on counting.
"""

from collections.abc import Collection
from typing import cast

from memserve.core.enums import Tier
from memserve.core.errors import ConfigError, InvalidBlocks, PoolExhausted
from memserve.core.ids import GENERATION_MASK, BlockId, block_generation, block_index, make_block_id
from memserve.pool.batches import BlockBatches


class BlockAllocator:
    """Hands out and takes back the blocks of one tier, last freed first; 0 .. num_blocks - 1 to begin with."""

    def __init__(self, *, tier: Tier, num_blocks: int) -> None:
        if num_blocks < 0:
            raise ConfigError(f"{num_blocks} blocks of {tier.name}: the number of blocks cannot be negative")
        self._tier = tier
        self._num_blocks = num_blocks
        # Ids are made when a block becomes free, so that handing them out is one slice.
        self._free = [make_block_id(tier, 0, index) for index in reversed(range(num_blocks))]
        self._used = BlockBatches()
        self._retired: dict[int, BlockId] = {}  # by position, the id that comes next
        self._num_freed = 0
        self._one_generation = make_block_id(tier, 1, 0) - make_block_id(tier, 0, 0)

    def __repr__(self) -> str:
        return f"BlockAllocator({self._tier.name}, {self.num_free} of {self._num_blocks} blocks free)"

    @property
    def num_blocks(self) -> int:
        return self._num_blocks

    @property
    def num_free(self) -> int:
        return len(self._free)

    def is_used(self, block: BlockId) -> bool:
        """True between the allocate that returned this very id and its free."""
        return block in self._used

    def allocate(self, num_blocks: int) -> tuple[BlockId, ...]:
        """That many blocks or none. Raises PoolExhausted when there are fewer, InvalidBlocks below 1."""
        if num_blocks < 1:
            raise InvalidBlocks(f"cannot allocate {num_blocks} blocks of {self._tier.name}: ask for at least 1")
        free = self._free
        if num_blocks > len(free):
            raise PoolExhausted(
                f"{num_blocks} blocks of {self._tier.name} asked for, {len(free)} of {self._num_blocks} are free; "
                "ask for fewer or free some"
            )
        taken = tuple(free[: -num_blocks - 1 : -1])
        del free[-num_blocks:]
        self._used.add(taken)
        return taken

    def free(self, blocks: Collection[BlockId]) -> None:
        """Take all back or none. Raises InvalidBlocks for any that is not out, or is named twice."""
        if not self._used.remove(blocks):
            raise InvalidBlocks(self._explain(blocks))
        self._num_freed += len(blocks)
        # The last freed go out first, in the order in which they came: neighbours stay neighbours.
        successors = self._successors(blocks)
        successors.reverse()
        self._free += successors

    def retire(self, blocks: Collection[BlockId]) -> None:
        """The tier has these blocks no more; all must be out."""
        self.free(blocks)
        successors = self._free[len(self._free) - len(blocks) :]
        del self._free[len(self._free) - len(blocks) :]
        self._retired.update((block_index(block), block) for block in successors)
        self._num_blocks -= len(blocks)

    def extend(self, positions: Collection[int]) -> None:
        """The tier has blocks at these positions, too."""
        added = [self._retired.pop(p, make_block_id(self._tier, 0, p)) for p in sorted(positions)]
        self._free += reversed(added)
        self._num_blocks += len(added)

    def _successors(self, blocks: Collection[BlockId]) -> list[BlockId]:
        """The ids of the next generation."""
        if self._num_freed > GENERATION_MASK:
            return [make_block_id(self._tier, block_generation(b) + 1, block_index(b)) for b in blocks]
        # So few were freed that no generation has wrapped: adding one is enough.
        step = self._one_generation
        return cast("list[BlockId]", [block + step for block in blocks])

    def _explain(self, blocks: Collection[BlockId]) -> str:
        strange = self._used.missing(blocks)
        if not strange:
            return (
                f"{len(blocks)} blocks of {self._tier.name} to free, {len(set(blocks))} different ones: name each once"
            )
        return (
            f"{len(strange)} of {len(blocks)} blocks are not allocated from {self._tier.name}, the first is "
            f"{strange[0]:#x}: freed before, from an earlier use of the block, or from another pool or tier"
        )

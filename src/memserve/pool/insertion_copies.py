"""Copies that an insert brings of what the index names already: which are allowed, which are better.

Owns the rules only; the ledger changes the index and the blocks.
"""

from collections.abc import Callable, Sequence

from memserve.core.enums import Tier
from memserve.core.errors import InvalidBlocks
from memserve.core.ids import BlockId, block_tier
from memserve.pool.active import ActiveBlocks, require_distinct
from memserve.pool.block import BlockState
from memserve.pool.radix_index import differing


def active_copies(
    blocks: Sequence[BlockId],
    *,
    new: Sequence[BlockId],
    held: Sequence[BlockId],
    active: ActiveBlocks,
    state: Callable[[BlockId], BlockState],
) -> tuple[BlockId, ...]:
    """The active copies of what is indexed already. Raises InvalidBlocks for blocks that cannot be inserted."""
    require_distinct(blocks)
    active.require(new)
    others = differing(blocks, held)
    misplaced = [b for b in others if state(b) in (BlockState.HISTORICAL, BlockState.RECEIVING)]
    if misplaced:
        raise InvalidBlocks(
            f"{len(misplaced)} of {len(blocks)} blocks are indexed elsewhere or targets of a swap, "
            f"the first is {misplaced[0]:#x}"
        )
    return tuple(block for block in others if block in active)


def faster_copies(
    blocks: Sequence[BlockId], held: Sequence[BlockId], *, active: ActiveBlocks
) -> dict[BlockId, BlockId]:
    """Active copies that are not on disk, and the indexed blocks on disk that they replace."""
    return {
        mine: there
        for mine, there in zip(blocks, held, strict=False)
        if block_tier(there) is Tier.DISK and block_tier(mine) is not Tier.DISK and mine in active
    }

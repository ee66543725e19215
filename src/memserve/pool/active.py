"""Active blocks: which allocation each belongs to.

Keeps the book of holds in step: an allocation is closed with its last block. Does not free blocks.
"""

from collections import Counter
from collections.abc import Collection, KeysView, Sequence

from memserve.core.errors import InvalidBlocks
from memserve.core.ids import BlockId
from memserve.pool.lease import Allocation, HoldBook


class ActiveBlocks:
    """Every block between its allocation and its free or insert."""

    def __init__(self, holds: HoldBook) -> None:
        self._holds = holds
        self._allocations: dict[BlockId, Allocation] = {}

    def __repr__(self) -> str:
        return f"ActiveBlocks({len(self._allocations)})"

    def __contains__(self, block: BlockId) -> bool:
        return block in self._allocations

    def blocks(self) -> KeysView[BlockId]:
        """All of them. Not a copy."""
        return self._allocations.keys()

    def add(self, blocks: tuple[BlockId, ...], *, owner: str, deadline: float) -> None:
        """Freshly allocated blocks, held together by `owner`."""
        allocation = Allocation(
            id=self._holds.new_id(), owner=owner, deadline=deadline, blocks=blocks, num_left=len(blocks)
        )
        self._holds.open(allocation)
        self._allocations.update(dict.fromkeys(blocks, allocation))

    def require(self, blocks: Sequence[BlockId]) -> None:
        """Raise InvalidBlocks for a block that is not active."""
        if self._allocations.keys() >= set(blocks):
            return
        strange = [block for block in blocks if block not in self._allocations]
        raise InvalidBlocks(
            f"{len(strange)} of {len(blocks)} blocks are not active, the first is {strange[0]:#x}: "
            "freed or inserted before, expired, or of another pool"
        )

    def remove(self, blocks: Collection[BlockId]) -> None:
        """They are not active any more; all must have been."""
        for allocation, number in Counter(map(self._allocations.pop, blocks)).items():
            allocation.num_left -= number
            if not allocation.num_left:
                self._holds.close(allocation)

    def left_of(self, allocation: Allocation) -> list[BlockId]:
        """The blocks of an allocation that are still active."""
        return [block for block in allocation.blocks if self._allocations.get(block) is allocation]


def require_distinct(blocks: Sequence[BlockId]) -> None:
    """Raise InvalidBlocks when a block is named twice."""
    if len(set(blocks)) != len(blocks):
        raise InvalidBlocks(f"{len(blocks)} blocks, {len(set(blocks))} different ones: name each once")

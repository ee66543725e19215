"""Active blocks: which allocation each belongs to.

Keeps the book of holds in step: an allocation is closed with its last block. Does not free blocks. Allocations
that go as they came, the usual case, are never looked into; the first question about a single block tells all
of them apart.
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
        self._whole: dict[BlockId, Allocation] = {}
        """Allocations of which nothing is gone, by their first block."""
        self._single: dict[BlockId, Allocation] = {}
        """By block, those that were looked into."""

    def __repr__(self) -> str:
        return f"ActiveBlocks({len(self._single)} blocks, {len(self._whole)} whole allocations)"

    def __contains__(self, block: BlockId) -> bool:
        return block in self._told_apart()

    def blocks(self) -> KeysView[BlockId]:
        """All of them. Not a copy."""
        return self._told_apart().keys()

    def add(self, blocks: tuple[BlockId, ...], *, owner: str, deadline: float) -> None:
        """Freshly allocated blocks, at least one, held together by `owner`."""
        allocation = Allocation(
            id=self._holds.new_id(), owner=owner, deadline=deadline, blocks=blocks, num_left=len(blocks)
        )
        self._holds.open(allocation)
        self._whole[blocks[0]] = allocation

    def require(self, blocks: Sequence[BlockId]) -> None:
        """Raise InvalidBlocks for a block that is not active."""
        if self._whole_allocation(blocks) is not None or self._told_apart().keys() >= set(blocks):
            return
        strange = [block for block in blocks if block not in self._single]
        raise InvalidBlocks(
            f"{len(strange)} of {len(blocks)} blocks are not active, the first is {strange[0]:#x}: "
            "freed or inserted before, expired, or of another pool"
        )

    def remove(self, blocks: Collection[BlockId]) -> None:
        """They are not active any more; all must have been."""
        if self.remove_whole(blocks):
            return
        for allocation, number in Counter(map(self._told_apart().pop, blocks)).items():
            allocation.num_left -= number
            if not allocation.num_left:
                self._holds.close(allocation)

    def remove_whole(self, blocks: Collection[BlockId]) -> bool:
        """If they are exactly what one call allocated, and active, they are so no more; else False."""
        allocation = self._whole_allocation(blocks)
        if allocation is None:
            return False
        del self._whole[allocation.blocks[0]]
        self._holds.close(allocation)
        return True

    def left_of(self, allocation: Allocation) -> tuple[BlockId, ...]:
        """The blocks of an allocation that are still active."""
        if self._whole_allocation(allocation.blocks) is not None:
            return allocation.blocks
        return tuple(block for block in allocation.blocks if self._single.get(block) is allocation)

    def _whole_allocation(self, blocks: Collection[BlockId]) -> Allocation | None:
        """The one that these are all blocks of, in order, if nobody has looked into it."""
        if not isinstance(blocks, tuple) or not blocks:
            return None
        allocation = self._whole.get(blocks[0])
        return allocation if allocation is not None and allocation.blocks == blocks else None

    def _told_apart(self) -> dict[BlockId, Allocation]:
        if self._whole:
            for allocation in self._whole.values():
                self._single.update(dict.fromkeys(allocation.blocks, allocation))
            self._whole.clear()
        return self._single


def require_distinct(blocks: Sequence[BlockId]) -> None:
    """Raise InvalidBlocks when a block is named twice."""
    if len(set(blocks)) != len(blocks):
        raise InvalidBlocks(f"{len(blocks)} blocks, {len(set(blocks))} different ones: name each once")

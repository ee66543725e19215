"""A set of blocks that come, and mostly go, in the same tuples.

Owns nothing but the set. A tuple that goes as it came costs one look-up and one comparison, however many blocks
it names; the first question about a single block tells all tuples apart, at the price that a plain set would
have asked when they came. Callers see to it that no block is added twice.
"""

from collections.abc import Collection

from memserve.core.ids import BlockId


class BlockBatches:
    """Block ids, each once."""

    __slots__ = ("_single", "_whole")

    def __init__(self) -> None:
        self._whole: dict[BlockId, tuple[BlockId, ...]] = {}
        """By the first block of each."""
        self._single: set[BlockId] = set()

    def __contains__(self, block: BlockId) -> bool:
        return block in self._told_apart()

    def __len__(self) -> int:
        return len(self._single) + sum(map(len, self._whole.values()))

    def __repr__(self) -> str:
        return f"BlockBatches({len(self._single)} single blocks, {len(self._whole)} batches)"

    def add(self, blocks: Collection[BlockId]) -> None:
        """Different blocks, of which none is in it yet."""
        if isinstance(blocks, tuple) and blocks:
            self._whole[blocks[0]] = blocks
        else:
            self._single.update(blocks)

    def remove(self, blocks: Collection[BlockId]) -> bool:
        """All of them; False, and nothing has changed, when one is not in it or is named twice."""
        if isinstance(blocks, tuple) and blocks and self._whole.get(blocks[0]) == blocks:
            del self._whole[blocks[0]]
            return True
        single = self._told_apart()
        if not single.issuperset(blocks):
            return False
        num_left = len(single) - len(blocks)
        single.difference_update(blocks)
        if len(single) == num_left:
            return True
        single.update(blocks)
        return False

    def as_set(self) -> frozenset[BlockId]:
        """A copy."""
        return frozenset(self._told_apart())

    def missing(self, blocks: Collection[BlockId]) -> list[BlockId]:
        """Those that are not in it."""
        single = self._told_apart()
        return [block for block in blocks if block not in single]

    def _told_apart(self) -> set[BlockId]:
        if self._whole:
            self._single.update(*self._whole.values())
            self._whole.clear()
        return self._single

"""How long indexed blocks live: those inserted with a time to live are named by nobody once it is over.

Owns the deadlines; the ledger removes what is due. A block without one stays until it is evicted or deleted.
Deadlines never grow along a prompt: whoever inserts a prefix prolongs all of it, so what is due takes nothing along
that is not.
"""

import math
from collections.abc import Iterable
from heapq import heappop, heappush
from itertools import count

from memserve.core.ids import BlockId


class _Group:
    """Blocks that end together."""

    __slots__ = ("blocks", "deadline")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.blocks: dict[BlockId, None] = {}  # in the order of the prompt


class Lifetimes:
    """Deadlines of one pool's indexed blocks, on the pool's clock. Costs nothing where nobody sets any."""

    def __init__(self) -> None:
        self._groups: dict[BlockId, _Group] = {}
        self._order: list[tuple[float, int, _Group]] = []
        self._serial = count()

    def __repr__(self) -> str:
        return f"Lifetimes({len(self._groups)} blocks in {len(self._order)} groups)"

    def begin(self, blocks: Iterable[BlockId], deadline: float) -> None:
        """These blocks are new."""
        if deadline == math.inf:
            return
        group = _Group(deadline)
        for block in blocks:
            group.blocks[block] = None
            self._groups[block] = group
        if group.blocks:
            heappush(self._order, (deadline, next(self._serial), group))

    def prolong(self, blocks: Iterable[BlockId], deadline: float) -> None:
        """None of these ends before `deadline`; those that never end stay so."""
        if not self._groups:
            return
        later = [block for block in blocks if block in self._groups and self._groups[block].deadline < deadline]
        self.forget(later)
        self.begin(later, deadline)

    def forget(self, blocks: Iterable[BlockId]) -> None:
        """These have no deadline any more: gone, or kept for ever."""
        if not self._groups:
            return
        for block in blocks:
            group = self._groups.pop(block, None)
            if group is not None:
                del group.blocks[block]

    def rename(self, old: BlockId, new: BlockId) -> None:
        """The bytes moved to another block."""
        group = self._groups.pop(old, None)
        if group is not None:
            del group.blocks[old]
            group.blocks[new] = None
            self._groups[new] = group

    def due(self, now: float) -> BlockId | None:
        """A block whose time is over, the first ones of a prompt first; None when there is none."""
        while self._order and self._order[0][0] <= now:
            blocks = self._order[0][2].blocks
            if blocks:
                return next(iter(blocks))
            heappop(self._order)
        return None

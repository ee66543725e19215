"""The life of one block: its states, the legal moves between them, and who is in which state.

    FREE -> ACTIVE -> HISTORICAL -> FREE          allocate, insert, evict or delete
    HISTORICAL -> DETACHED -> FREE                 deleted or moved while a lease still reads it
    FREE -> RECEIVING -> HISTORICAL                target of a swap between tiers
    ACTIVE -> FREE, RECEIVING -> FREE              freed, cancelled

Any other move is a bug and raises IllegalTransition.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from enum import Enum
from itertools import groupby

from memserve.core.enums import Tier
from memserve.core.errors import IllegalTransition
from memserve.core.ids import BlockId, block_tier
from memserve.pool.batches import BlockBatches


class BlockState(Enum):
    # Members are singletons; Enum's own hash is a call into Python, several for each move of a block.
    __hash__ = object.__hash__

    FREE = "free"
    ACTIVE = "active"
    """Belongs to a running request or a transfer of one owner; the index does not name it."""
    HISTORICAL = "historical"
    """Named by the index."""
    RECEIVING = "receiving"
    """Target of a swap that is not finished."""
    DETACHED = "detached"
    """No longer named by the index, but a lease taken before still reads it."""


LEGAL_MOVES = frozenset(
    {
        (BlockState.FREE, BlockState.ACTIVE),
        (BlockState.FREE, BlockState.RECEIVING),
        (BlockState.ACTIVE, BlockState.FREE),
        (BlockState.ACTIVE, BlockState.HISTORICAL),
        (BlockState.HISTORICAL, BlockState.FREE),
        (BlockState.HISTORICAL, BlockState.DETACHED),
        (BlockState.DETACHED, BlockState.FREE),
        (BlockState.RECEIVING, BlockState.HISTORICAL),
        (BlockState.RECEIVING, BlockState.FREE),
    }
)


class BlockStates:
    """State of every block that is not free, and how many there are of each by tier."""

    def __init__(self) -> None:
        states: list[BlockState] = [state for state in BlockState if state is not BlockState.FREE]
        self._members = {state: BlockBatches() for state in states}
        self._counts = {state: dict.fromkeys(Tier, 0) for state in states}

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(blocks)} {state.value}" for state, blocks in self._members.items() if blocks)
        return f"BlockStates({counts or 'all free'})"

    def state(self, block: BlockId) -> BlockState:
        """FREE for an id that names no block of the pool, too."""
        return next((state for state, blocks in self._members.items() if block in blocks), BlockState.FREE)

    def in_none_of(self, blocks: Collection[BlockId], allowed: Collection[BlockState]) -> Collection[BlockId]:
        """Those of `blocks` that are in none of these states, FREE not being one."""
        for state in allowed:
            blocks = self._members[state].missing(blocks)
        return blocks

    def count(self, tier: Tier, state: BlockState) -> int:
        """Number of blocks; FREE ones are not counted here."""
        return self._counts[state][tier]

    def members(self, state: BlockState) -> frozenset[BlockId]:
        """A copy of all blocks in this state, which is not FREE."""
        return self._members[state].as_set()

    def move(
        self, blocks: Collection[BlockId], start: BlockState, finish: BlockState, *, tier: Tier | None = None
    ) -> None:
        """All of `blocks` or none. Raises IllegalTransition for a move that is not in the table.

        `tier` spares the search when the caller knows that all of them lie in one.
        """
        if (start, finish) not in LEGAL_MOVES:
            raise IllegalTransition(f"{len(blocks)} blocks: {start.name} -> {finish.name} is not a legal move")
        tiers = by_tier(blocks) if tier is None else ((tier, len(blocks)),)
        if start is not BlockState.FREE:
            self._leave(blocks, start, finish)
            counts = self._counts[start]
            for where, number in tiers:
                counts[where] -= number
        if finish is not BlockState.FREE:
            self._members[finish].add(blocks)
            counts = self._counts[finish]
            for where, number in tiers:
                counts[where] += number

    def _leave(self, blocks: Collection[BlockId], start: BlockState, finish: BlockState) -> None:
        members = self._members[start]
        if members.remove(blocks):
            return
        for block in members.missing(blocks):
            raise IllegalTransition(
                f"block {block:#x} is {self.state(block).name}, so it cannot move {start.name} -> {finish.name}"
            )
        raise IllegalTransition(f"a block is named twice among {len(blocks)} to move {start.name} -> {finish.name}")


def by_tier(blocks: Collection[BlockId]) -> Sequence[tuple[Tier, int]]:
    """Which tiers the blocks lie in, and how many in each."""
    if not blocks:
        return ()
    # The tier is in the highest bits: when the smallest and the largest id agree, all do.
    first, last = block_tier(min(blocks)), block_tier(max(blocks))
    return ((first, len(blocks)),) if first is last else tuple(Counter(map(block_tier, blocks)).items())


def tier_runs(blocks: Sequence[BlockId]) -> Sequence[tuple[Tier, int]]:
    """The tiers of consecutive blocks, and how many follow each other in each."""
    tiers = by_tier(blocks)
    return tiers if len(tiers) < 2 else [(tier, len([*run])) for tier, run in groupby(blocks, block_tier)]

"""The life of one block: its states, the legal moves between them, and who is in which state.

    FREE -> ACTIVE -> HISTORICAL -> FREE          allocate, insert, evict or delete
    HISTORICAL -> DETACHED -> FREE                 deleted or moved while a lease still reads it
    FREE -> RECEIVING -> HISTORICAL                target of a swap between tiers
    ACTIVE -> FREE, RECEIVING -> FREE              freed, cancelled

Any other move is a bug and raises IllegalTransition.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from enum import Enum

from memserve.core.enums import Tier
from memserve.core.errors import IllegalTransition
from memserve.core.ids import BlockId, block_tier


class BlockState(Enum):
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
        self._states: dict[BlockId, BlockState] = {}
        self._counts: Counter[tuple[Tier, BlockState]] = Counter()

    def __repr__(self) -> str:
        counts = ", ".join(f"{n} {state.value} in {tier.name}" for (tier, state), n in sorted_counts(self._counts))
        return f"BlockStates({counts or 'all free'})"

    def state(self, block: BlockId) -> BlockState:
        """FREE for an id that names no block of the pool, too."""
        return self._states.get(block, BlockState.FREE)

    def are_all(self, blocks: Iterable[BlockId], state: BlockState) -> bool:
        return {*map(self._states.get, blocks)} <= {None if state is BlockState.FREE else state}

    def count(self, tier: Tier, state: BlockState) -> int:
        """Number of blocks; FREE ones are not counted here."""
        return self._counts[tier, state]

    def not_free(self) -> dict[BlockId, BlockState]:
        """A copy of the whole table."""
        return dict(self._states)

    def move(self, blocks: Collection[BlockId], start: BlockState, finish: BlockState) -> None:
        """All of `blocks` or none. Raises IllegalTransition for a move that is not in the table."""
        if (start, finish) not in LEGAL_MOVES:
            raise IllegalTransition(f"{len(blocks)} blocks: {start.name} -> {finish.name} is not a legal move")
        if not self.are_all(blocks, start):
            block = next(block for block in blocks if self.state(block) is not start)
            raise IllegalTransition(
                f"block {block:#x} is {self.state(block).name}, so it cannot move {start.name} -> {finish.name}"
            )
        if finish is BlockState.FREE:
            for block in blocks:
                del self._states[block]
        else:
            self._states.update(dict.fromkeys(blocks, finish))
        for tier, number in by_tier(blocks):
            self._counts[tier, start] -= number
            self._counts[tier, finish] += number


def sorted_counts(counts: Counter[tuple[Tier, BlockState]]) -> list[tuple[tuple[Tier, BlockState], int]]:
    """What there is any of, FREE left out, in the order of tiers."""
    return sorted(
        ((key, n) for key, n in counts.items() if n and key[1] is not BlockState.FREE),
        key=lambda item: (item[0][0], item[0][1].value),
    )


def by_tier(blocks: Collection[BlockId]) -> Iterable[tuple[Tier, int]]:
    """Which tiers the blocks lie in, and how many in each."""
    if not blocks:
        return ()
    # The tier is in the highest bits: when the smallest and the largest id agree, all do.
    first, last = block_tier(min(blocks)), block_tier(max(blocks))
    return ((first, len(blocks)),) if first is last else Counter(map(block_tier, blocks)).items()

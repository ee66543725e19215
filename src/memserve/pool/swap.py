"""The book of moves between tiers: each swap is begun, then finished or cancelled.

Owns which blocks are on the move. Until a swap ends, its sources stay indexed under anchors and
its targets belong to nobody else.
"""

from collections.abc import Iterable, Iterator

import msgspec

from memserve.core.ids import BlockId
from memserve.pool.radix_node import Anchor


class Swap(msgspec.Struct, frozen=True, kw_only=True):
    """Copy the bytes of each source to its target, then finish; or cancel."""

    id: int
    pairs: tuple[tuple[BlockId, BlockId], ...]
    """(source, target)."""


class OpenSwaps:
    """Swaps that have not ended."""

    def __init__(self) -> None:
        self._anchors: dict[int, list[Anchor]] = {}
        self._last_id = 0
        self.sources: set[BlockId] = set()
        self.targets: set[BlockId] = set()

    def __repr__(self) -> str:
        return f"OpenSwaps({len(self._anchors)} swaps of {len(self.sources)} blocks)"

    def __len__(self) -> int:
        return len(self._anchors)

    def __contains__(self, swap: Swap) -> bool:
        return swap.id in self._anchors

    def anchors(self) -> Iterator[Anchor]:
        """What protects the sources of all open swaps."""
        for anchors in self._anchors.values():
            yield from anchors

    def open(self, pairs: tuple[tuple[BlockId, BlockId], ...], anchors: list[Anchor]) -> Swap:
        self._last_id += 1
        swap = Swap(id=self._last_id, pairs=pairs)
        self._anchors[swap.id] = anchors
        self.sources.update(source for source, _ in pairs)
        self.targets.update(target for _, target in pairs)
        return swap

    def close(self, swap: Swap) -> list[Anchor]:
        """Forget an open swap; the anchors that the caller must release."""
        self.sources.difference_update(source for source, _ in swap.pairs)
        self.targets.difference_update(target for _, target in swap.pairs)
        return self._anchors.pop(swap.id)


def half_open_runs(positions: Iterable[int]) -> list[tuple[int, int]]:
    """Positions in any order as ranges [first, end) of neighbours, ascending."""
    runs: list[tuple[int, int]] = []
    for position in sorted(positions):
        if runs and runs[-1][1] == position:
            runs[-1] = (runs[-1][0], position + 1)
        else:
            runs.append((position, position + 1))
    return runs

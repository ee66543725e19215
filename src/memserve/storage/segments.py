"""Which positions of a file of blocks have memory behind them.

    positions   0 ........ 5 6 7 8 9 ........ 12
    segments    [0, 6)          [9, 13)              what the pool may use
    holes              6, 7, 8                       given back to the host, taken first when the pool grows

Owns the arithmetic, never the file. Positions are never renumbered: whoever has mapped the file sees each block
where it always was.
"""

from collections.abc import Collection, Iterable


class Segments:
    """Positions 0 .. num_positions - 1, all of them backed at first."""

    def __init__(self, num_positions: int) -> None:
        self.num_positions = num_positions
        """The file is so many blocks long; grows, and never shrinks."""
        self._holes: set[int] = set()

    @property
    def num_blocks(self) -> int:
        """Positions with memory behind them."""
        return self.num_positions - len(self._holes)

    def backed(self) -> tuple[range, ...]:
        """The segments, in order."""
        return runs(position for position in range(self.num_positions) if position not in self._holes)

    def next_to_back(self, num_blocks: int) -> tuple[range, ...]:
        """Where so many more blocks would go: into the first holes, the rest at the end. Changes nothing."""
        holes = sorted(self._holes)[:num_blocks]
        rest = num_blocks - len(holes)
        return runs([*holes, *range(self.num_positions, self.num_positions + rest)])

    def back(self, added: Iterable[range]) -> None:
        """These have memory now."""
        for run in added:
            self._holes.difference_update(run)
            self.num_positions = max(self.num_positions, run.stop)

    def release(self, positions: Collection[int]) -> tuple[range, ...]:
        """These have none any more. Returns the whole holes that they are part of now."""
        self._holes.update(positions)
        gone = set(positions)
        return tuple(hole for hole in runs(self._holes) if not gone.isdisjoint(hole))

    def __repr__(self) -> str:
        return f"Segments({self.num_blocks} of {self.num_positions} positions backed)"


def runs(positions: Iterable[int]) -> tuple[range, ...]:
    """Positions as ranges of neighbours, ascending."""
    found: list[range] = []
    for position in sorted(positions):
        if found and found[-1].stop == position:
            found[-1] = range(found[-1].start, position + 1)
        else:
            found.append(range(position, position + 1))
    return tuple(found)

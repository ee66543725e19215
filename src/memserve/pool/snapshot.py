"""A picture of the whole index at one moment, for a reader that has missed events.

Owns the frozen picture and its division into parts. Taking it walks the nodes once and copies no tokens:
runs are immutable and stay alive for as long as the picture does.

    node order, parents first:   A[b0 b1]   A/B[b2]   A/C[b3 b4]     an entry keeps what it shares with the one before
"""

from collections.abc import Iterator
from typing import NamedTuple

from memserve.pool.block import tier_runs
from memserve.pool.radix_index import RadixIndex
from memserve.pool.radix_node import Node, Root
from memserve.wire.events import IndexEntry, TierRun
from memserve.wire.identity import Namespace


class _Run(NamedTuple):
    namespace: Namespace
    parent: int
    """Position of the run that this one continues; -1 for none."""
    at: int
    """Bytes of its prompt before it."""
    tokens: bytes
    tiers: tuple[TierRun, ...]
    used_at: int
    is_mirrored: bool


class IndexSnapshot:
    """All that an index named after event `seq`, and after it what the mirror of an engine named."""

    def __init__(self, index: RadixIndex, *, seq: int, mirror: RadixIndex | None = None) -> None:
        self.seq = seq
        self._runs: list[_Run] = []
        self._add_all(index, is_mirrored=False)
        if mirror is not None:
            self._add_all(mirror, is_mirrored=True)

    def __len__(self) -> int:
        return len(self._runs)

    def __repr__(self) -> str:
        return f"IndexSnapshot({len(self._runs)} runs of blocks, after event {self.seq})"

    def prompts_by_use(self) -> Iterator[tuple[Namespace, bytes]]:
        """Namespace and tokens of every prompt of the pool itself that none continues, the latest used first."""
        parents = {run.parent for run in self._runs}
        own = [place for place, run in enumerate(self._runs) if not run.is_mirrored]
        ends = [place for place in own if place not in parents]
        for place in sorted(ends, key=lambda place: self._runs[place].used_at, reverse=True):
            yield self._runs[place].namespace, self._prompt(place)

    def entries(self, position: int, *, max_bytes: int) -> tuple[IndexEntry, ...]:
        """Entries from `position` on, at least one if there is any, with little more than `max_bytes` of tokens.

        The first is told with its whole prompt, so that each part can be read alone.
        """
        return tuple(self._entries(position, max_bytes))

    def _entries(self, position: int, max_bytes: int) -> Iterator[IndexEntry]:
        num_bytes = 0
        for place in range(position, len(self._runs)):
            run = self._runs[place]
            at, tokens = (run.at, run.tokens) if place > position else (0, self._prompt(place))
            if num_bytes and num_bytes + len(tokens) > max_bytes:
                return
            num_bytes += len(tokens)
            yield IndexEntry(
                namespace=run.namespace, at=at, tokens=tokens, tiers=run.tiers, is_mirrored=run.is_mirrored
            )

    def _add_all(self, index: RadixIndex, *, is_mirrored: bool) -> None:
        places: dict[Node, int] = {}
        for node in index.nodes():  # parents first, and all below one before the next
            places[node] = len(self._runs)
            self._runs.append(self._run(node, places, is_mirrored=is_mirrored))

    def _run(self, node: Node, places: dict[Node, int], *, is_mirrored: bool) -> _Run:
        tiers = tuple(TierRun(tier=tier, num_blocks=number) for tier, number in tier_runs(node.blocks))
        if node.parent is None or isinstance(node.parent, Root):
            namespace = node.parent.namespace if node.parent else b""
            return _Run(namespace, -1, 0, node.run, tiers, node.used_at, is_mirrored)
        parent = places[node.parent]
        above = self._runs[parent]
        at = above.at + len(above.tokens)
        return _Run(above.namespace, parent, at, node.run, tiers, node.used_at, is_mirrored)

    def _prompt(self, place: int) -> bytes:
        runs = []
        while place >= 0:
            runs.append(self._runs[place].tokens)
            place = self._runs[place].parent
        return b"".join(reversed(runs))

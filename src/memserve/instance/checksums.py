"""Checksums of blocks that are sent: those of blocks that cannot change any more are taken once and kept.

A block is written only while it is active; once indexed it keeps its bytes until it is freed, and its id, which
carries a generation, never names other bytes. So a kept checksum also shows whether a block has been damaged in
memory since it was first sent. Owns the kept ones, at most one for each place of the pool. Thread-safe.
"""

from collections.abc import Sequence

from memserve.core.ids import BlockId, block_place
from memserve.instance.locked_ledger import LockedLedger
from memserve.instance.tiers import TierMemory
from memserve.pool.block import BlockState
from memserve.transport.verified_copy import CopyThreads, checksum

_FIXED = frozenset({BlockState.HISTORICAL, BlockState.DETACHED})


class BlockChecksums:
    """Of one pool."""

    def __init__(self, *, ledger: LockedLedger, memory: TierMemory, threads: CopyThreads) -> None:
        self._ledger = ledger
        self._memory = memory
        self._threads = threads
        self._kept: dict[int, tuple[BlockId, int]] = {}

    def of(self, blocks: Sequence[BlockId], *, copies: Sequence[BlockId]) -> tuple[int, ...]:
        """xxh3-64 of each block; `copies` names where the same bytes can be read, `blocks` themselves or others.

        The caller keeps both alive. Raises InvalidBlocks for what is not here.
        """
        found = [self._find(block) for block in blocks]
        missing = [position for position, known in enumerate(found) if known is None]
        if not missing:
            return tuple(known for known in found if known is not None)
        changeable = self._ledger.in_none_of([blocks[position] for position in missing], _FIXED)
        views = {position: self._memory.view(copies[position]) for position in missing}

        def take(position: int) -> None:
            found[position] = checksum(views[position])

        self._threads.run(take, missing, num_bytes=sum(view.nbytes for view in views.values()))
        taken = tuple(known for known in found if known is not None)
        for position in missing:
            block = blocks[position]
            if block not in changeable:
                self._kept[block_place(block)] = block, taken[position]
        return taken

    def _find(self, block: BlockId) -> int | None:
        name, value = self._kept.get(block_place(block), (None, 0))
        return value if name == block else None

    def __repr__(self) -> str:
        return f"BlockChecksums({len(self._kept)} kept)"

"""A pool's DRAM tier grown and shrunk while it serves: memory and books in step.

Memory comes before the blocks that lie in it and goes after them, so that no block is ever without. What a peer
has mapped or copies right now is not touched: blocks that are leased or belong to somebody do not go.
"""

import threading

from memserve.core.enums import Tier
from memserve.core.errors import ConfigError, PoolExhausted
from memserve.core.ids import block_index
from memserve.instance.core import PoolCore
from memserve.wire.messages import TierStats


class Resizing:
    """One change at a time. Thread-safe; a change by gigabytes takes a second or so, outside the pool's lock."""

    def __init__(self, core: PoolCore) -> None:
        self._core = core
        self._changing = threading.Lock()

    def resize(self, num_bytes: int) -> tuple[TierStats, TierStats]:
        """To as many whole blocks as fit into `num_bytes`; the DRAM tier before and after.

        Shrinking evicts the least wanted blocks. Raises PoolExhausted with the smallest size that is possible now,
        ConfigError for a size that holds no block, without room in shared memory, or during another change; the
        size is then as before.
        """
        block_bytes = self._core.memory.block_bytes
        if num_bytes < block_bytes:
            raise ConfigError(
                f"{num_bytes} bytes of DRAM hold no block of {block_bytes} bytes: give at least one block's"
            )
        if not self._changing.acquire(blocking=False):
            raise ConfigError("the pool is changing its size already: try again when that is done")
        try:
            before = self._dram()
            missing = num_bytes // block_bytes - before.num_blocks
            if missing > 0:
                self._grow(missing)
            elif missing < 0:
                self._shrink(-missing)
            return before, self._dram()
        finally:
            self._changing.release()

    def _grow(self, num_blocks: int) -> None:
        positions = self._core.memory.elastic(Tier.DRAM).grow(num_blocks)
        with self._core.lock:
            self._core.ledger.grow(positions, tier=Tier.DRAM)

    def _shrink(self, num_blocks: int) -> None:
        storage = self._core.memory.elastic(Tier.DRAM)
        with self._core.lock:
            try:
                blocks = self._core.ledger.shrink(num_blocks, tier=Tier.DRAM)
            except PoolExhausted as error:
                raise PoolExhausted(self._in_the_way(num_blocks)) from error
        storage.shrink([block_index(block) for block in blocks])

    def _in_the_way(self, num_blocks: int) -> str:
        dram, block_bytes = self._dram(), self._core.memory.block_bytes
        with self._core.lock:
            held = self._core.ledger.num_held(Tier.DRAM)
        return (
            f"cannot shrink DRAM by {num_blocks} blocks of {block_bytes} bytes to {dram.num_blocks - num_blocks}: "
            f"{dram.num_reserved} are in use by requests or transfers, {dram.num_leased} leased and {dram.num_pinned} "
            f"pinned, {held} in the way; {held * block_bytes} bytes is the least now; ask for more, or try again "
            "when requests have ended or pins are gone"
        )

    def _dram(self) -> TierStats:
        with self._core.lock:
            for tier in self._core.ledger.stats():
                if tier.tier is Tier.DRAM:
                    return tier
        raise ConfigError("this pool has no DRAM tier to change: give it one when it starts")

    def __repr__(self) -> str:
        return f"Resizing({'changing' if self._changing.locked() else 'idle'})"

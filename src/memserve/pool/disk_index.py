"""What the index names on disk, as far as it outlives this process: labels to store, and the index made from them.

Works on the ledger's own index and stock, under the ledger's lock. Reads and writes no file.
"""

from collections.abc import Callable, Iterable

from memserve.core.enums import Tier
from memserve.core.ids import BlockId, block_index, block_tier
from memserve.pool.block import BlockState
from memserve.pool.labels import StoredRun, label_of, stored_runs
from memserve.pool.radix_index import RadixIndex
from memserve.pool.stock import BlockStock


class DiskIndex:
    """Of one ledger."""

    def __init__(self, *, stock: BlockStock, index: RadixIndex, adopt: Callable[[StoredRun, list[BlockId]], None]):
        """`adopt` indexes historical blocks at the end of a run's tokens."""
        self._stock = stock
        self._index = index
        self._adopt = adopt

    def __repr__(self) -> str:
        return f"DiskIndex({self._stock.num_cached(Tier.DISK)} blocks)"

    def label(self, block: BlockId) -> bytes:
        """To be stored with the bytes of this indexed block. Raises InvalidBlocks when it is not indexed."""
        node, position = self._index.locate(block)
        namespace, tokens = self._index.path(node, position + 1)
        return label_of(namespace, tokens, block_token_bytes=self._index.block_token_bytes)

    def wanted(self, tier: Tier) -> tuple[BlockId, ...]:
        """Indexed blocks of a tier, the last used first, a prefix before what continues it. Linear in the index."""
        nodes = sorted(self._index.nodes(), key=lambda node: -node.used_at)
        return tuple(block for node in nodes for block in node.blocks if block_tier(block) is tier)

    def restore(self, labels: Iterable[tuple[int, bytes]]) -> int:
        """Index what an earlier process has left on disk; how many blocks. Only before the first use of the tier.

        What is left out, for want of the prefix before it, is told by `take_left`.
        """
        if Tier.DISK not in self._stock.allocators:
            return 0
        num_blocks = self._stock.allocators[Tier.DISK].num_blocks
        blocks = self._stock.take(num_blocks, Tier.DISK, BlockState.RECEIVING)
        homeless = {block_index(block): block for block in blocks}
        for run in stored_runs(labels, block_token_bytes=self._index.block_token_bytes):
            mine = [homeless.pop(slot) for slot in run.slots]
            self._stock.states.move(mine, BlockState.RECEIVING, BlockState.HISTORICAL)
            self._adopt(run, mine)
        self._stock.give_back(tuple(homeless.values()), BlockState.RECEIVING)
        return num_blocks - len(homeless)

    def take_left(self) -> set[int]:
        """Positions freed on disk since the last call and not taken again: their bytes can be erased."""
        left = set(self._stock.left_on_disk)
        self._stock.left_on_disk.clear()
        return left

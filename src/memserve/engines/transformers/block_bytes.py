"""The bytes of a pool's blocks as tensors, whatever tier they are on: in host memory, on the model's device, on disk.

Moves bytes and decides nothing: whoever calls holds the blocks meanwhile. Every call is through with its copies
when it returns, those on a device included.
"""

from collections.abc import Sequence

import torch

from memserve.core.enums import Tier
from memserve.core.errors import StorageFailed
from memserve.core.ids import BlockId, block_index, block_tier
from memserve.engines.device.arena import DeviceArena
from memserve.engines.device.side_stream import SideStream
from memserve.engines.transformers.layout import KvLayout
from memserve.instance.mempool import MemPool
from memserve.wire.messages import BlockList


class BlockBytes:
    """Of one pool, in one layout."""

    def __init__(self, pool: MemPool, layout: KvLayout, *, device: torch.device, arena: DeviceArena | None) -> None:
        """`arena` is the pool's HBM tier, when it is one."""
        self._pool = pool
        self._layout = layout
        self._arena = arena
        self._stream = SideStream(device)

    def write(self, blocks: Sequence[BlockId], run: torch.Tensor) -> None:
        """Fill blocks of the HBM or the DRAM tier from a run (KvLayout.empty_run) of as many."""
        with self._stream.after(self._stream.mark()):
            for position, block in enumerate(blocks):
                self._tensor(block).copy_(run[:, :, :, position])

    def read(self, blocks: Sequence[BlockId], run: torch.Tensor) -> int:
        """Fill a run from as many blocks of any tier. Returns how many were read before the first that cannot be."""
        with self._stream.after(self._stream.mark()):
            for position, block in enumerate(blocks):
                try:
                    run[:, :, :, position].copy_(self._tensor(block))
                except StorageFailed:
                    return position
        return len(blocks)

    def _tensor(self, block: BlockId) -> torch.Tensor:
        """Aliases the block, but for one on disk, of which it is a copy."""
        tier = block_tier(block)
        if tier is Tier.HBM and self._arena is not None:
            return self._layout.tensor_of(self._arena.block(block_index(block)))
        if tier is Tier.DISK:
            own = self._pool.info
            named = BlockList(instance=own.instance, incarnation=own.incarnation, blocks=(block,))
            return self._layout.tensor_of(torch.frombuffer(bytearray(self._pool.read(named)), dtype=torch.uint8))
        return self._layout.tensor_of(torch.frombuffer(self._pool.view(block), dtype=torch.uint8))

    def __repr__(self) -> str:
        return f"BlockBytes({self._pool}, {self._arena})"

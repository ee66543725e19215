"""A tier of blocks in the memory of a device: what MemPool calls HBM, on whatever device torch knows.

Owns one tensor and a stream of its own for copies to and from host memory. They begin when what the calling thread's
stream was given before is done, and are through when the call returns. Give it to a pool:

    arena = DeviceArena(num_blocks=512, block_bytes=block_bytes, device=torch.device("cuda"))
    pool = MemPool(..., dram_bytes=..., hbm=arena)        # swap_out and swap_in move blocks; the pool closes it

It locks host memory for the device at its first use (pins.py), so a pool's DRAM tier then keeps its size.
Thread-safe, but for two callers of one block.
"""

import threading
from collections.abc import Sequence

import torch

from memserve.core.errors import ConfigError, InvalidBlocks
from memserve.engines.device.pins import CudaLock, Pins
from memserve.engines.device.side_stream import SideStream
from memserve.storage.base import check_index, check_shape


class DeviceArena:
    """A Storage that cannot be mapped."""

    def __init__(self, *, num_blocks: int, block_bytes: int, device: torch.device, pins: Pins | None = None) -> None:
        """`pins` None: CUDA's where the device is one, else none. Raises ConfigError when the device has no room."""
        check_shape(num_blocks, block_bytes)
        self.num_blocks = num_blocks
        self.block_bytes = block_bytes
        try:
            self._blocks = torch.zeros(num_blocks, block_bytes, dtype=torch.uint8, device=device)
        except RuntimeError as error:  # torch's out of memory is one
            raise ConfigError(
                f"{device} has no room for {num_blocks} blocks of {block_bytes} bytes: {error}; ask for less"
            ) from error
        self._device = self._blocks.device
        self._stream = SideStream(self._device)
        self._copying = threading.Lock()
        self._pins = pins or (Pins(CudaLock()) if self._device.type == "cuda" else None)

    def block(self, block_index: int) -> torch.Tensor:
        """Aliases one block, uint8 of shape [block_bytes]. Raises InvalidBlocks."""
        check_index(block_index, num_blocks=self.num_blocks)
        if not len(self._blocks):
            raise InvalidBlocks(f"block {block_index} cannot be reached: the pool is closed")
        return self._blocks[block_index]

    def read(self, block_index: int, target: memoryview) -> None:
        self._copy([(torch.frombuffer(target, dtype=torch.uint8), self.block(block_index))])

    def write(self, block_index: int, source: memoryview) -> None:
        writable = bytearray(source) if source.readonly else source
        self._copy([(self.block(block_index), torch.frombuffer(writable, dtype=torch.uint8))])

    def read_all(self, block_indexes: Sequence[int], targets: Sequence[memoryview]) -> None:
        """Fill each target, a block of another tier of the pool, with one block; waits once, for all."""
        self._copy([(self._locked(t), self.block(i)) for i, t in zip(block_indexes, targets, strict=True)])

    def write_all(self, block_indexes: Sequence[int], sources: Sequence[memoryview]) -> None:
        """Replace each block by one source, a block of another tier of the pool; waits once, for all."""
        self._copy([(self.block(i), self._locked(s)) for i, s in zip(block_indexes, sources, strict=True)])

    def close(self) -> None:
        if self._pins is not None:
            self._pins.close()
        self._blocks = torch.empty(0, self.block_bytes, dtype=torch.uint8)

    def _locked(self, memory: memoryview) -> torch.Tensor:
        if self._pins is not None:
            self._pins.ensure(memory)
        return torch.frombuffer(memory, dtype=torch.uint8)

    def _copy(self, pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
        mark = self._stream.mark()
        with self._copying, self._stream.after(mark):
            for target, source in pairs:
                target.copy_(source, non_blocking=True)

    def __repr__(self) -> str:
        return f"DeviceArena({self._device}, {self.num_blocks} x {self.block_bytes} bytes, {self._pins})"

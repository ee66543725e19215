"""Anonymous memory of this process: stands for Tier.HBM where there is no device to hold it.

Owns one mapping; no other process can reach it. Lifecycle as in storage/base.py.
"""

import mmap

from memserve.core.errors import ConfigError
from memserve.storage.base import MappedStorage, block_view, check_shape


class PrivateMemory(MappedStorage):
    """A Storage in pages of this process, zero until written, committed when first touched."""

    def __init__(self, *, num_blocks: int, block_bytes: int) -> None:
        check_shape(num_blocks, block_bytes)
        self.num_blocks = num_blocks
        self.block_bytes = block_bytes
        try:
            mapping = mmap.mmap(-1, num_blocks * block_bytes)
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"cannot map {num_blocks * block_bytes} bytes of private memory: {error}; ask for less"
            ) from error
        self._memory = memoryview(mapping)

    def view(self, block_index: int, num_blocks: int = 1) -> memoryview:
        blocks = range(block_index, block_index + num_blocks)
        return block_view(self._memory, blocks, num_blocks=self.num_blocks, block_bytes=self.block_bytes)

    def close(self) -> None:
        self._memory = memoryview(b"")

    def __repr__(self) -> str:
        return f"PrivateMemory({self.num_blocks} x {self.block_bytes} bytes)"

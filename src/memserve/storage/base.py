"""What a tier's bytes look like from above: equally sized blocks, addressed by index.

A Storage owns memory or a file and nothing else: it does not know which blocks are in use, checks no lease and
keeps no two callers of one block apart. Lifecycle: made ready by its constructor, in use until `close`, never
reopened. What can be mapped also gives views; one that outlives `close` stays readable, and the memory goes
when the last view goes.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from memserve.core.errors import ConfigError, InvalidBlocks


class Storage(Protocol):
    """Bytes of one tier of one pool. Every call raises InvalidBlocks beyond the last block, and after `close`."""

    @property
    def num_blocks(self) -> int: ...

    @property
    def block_bytes(self) -> int: ...

    def read(self, block_index: int, target: memoryview) -> None:
        """Fill `target`, `block_bytes` long. Raises StorageFailed when the bytes cannot be had as they were written."""
        ...

    def write(self, block_index: int, source: memoryview) -> None:
        """Replace all bytes of the block. Raises StorageFailed."""
        ...

    def close(self) -> None:
        """Give the memory or the file back; idempotent."""
        ...


@runtime_checkable
class ElasticStorage(Storage, Protocol):
    """A storage whose size may change while it is in use."""

    def grow(self, num_blocks: int) -> tuple[int, ...]:
        """Memory for so many more blocks; their positions. Raises ConfigError, and then has not grown."""
        ...

    def shrink(self, positions: Collection[int]) -> None:
        """Give the memory of these blocks, which nobody uses any more, back to the host."""
        ...


@runtime_checkable
class DeviceStorage(Storage, Protocol):
    """A storage on a device, which moves many blocks at once and gets at the memory of the host by itself.

    It may hold on to the memory that it was given until it is closed, so that memory must not be given back.
    """

    def read_all(self, block_indexes: Sequence[int], targets: Sequence[memoryview]) -> None:
        """Fill each target, a block of another tier of the same pool, with one block."""
        ...

    def write_all(self, block_indexes: Sequence[int], sources: Sequence[memoryview]) -> None:
        """Replace each block by one source, a block of another tier of the same pool."""
        ...


class MappedStorage(ABC):
    """A Storage in memory of this process, or mapped into it."""

    block_bytes: int

    @abstractmethod
    def view(self, block_index: int, num_blocks: int = 1) -> memoryview:
        """Writable bytes of one block, or of so many neighbours; `block_bytes` each."""

    @abstractmethod
    def close(self) -> None:
        """Give the memory back; idempotent."""

    def read(self, block_index: int, target: memoryview) -> None:
        np.copyto(np.frombuffer(target, np.uint8), np.frombuffer(self.view(block_index), np.uint8))

    def write(self, block_index: int, source: memoryview) -> None:
        np.copyto(np.frombuffer(self.view(block_index), np.uint8), np.frombuffer(source, np.uint8))


def block_view(memory: memoryview, blocks: range, *, num_blocks: int, block_bytes: int) -> memoryview:
    """Slice of neighbouring blocks out of a tier's memory. Raises InvalidBlocks when one is no block's index."""
    check_index(blocks.start, num_blocks=num_blocks)
    check_index(blocks.stop - 1, num_blocks=num_blocks)
    if len(memory) != num_blocks * block_bytes:
        raise InvalidBlocks(f"block {blocks.start} cannot be reached: the pool is closed")
    return memory[blocks.start * block_bytes : blocks.stop * block_bytes]


def check_shape(num_blocks: int, block_bytes: int) -> None:
    """Raise ConfigError unless the numbers describe at least one block."""
    if num_blocks < 1 or block_bytes < 1:
        raise ConfigError(
            f"a tier of {num_blocks} blocks of {block_bytes} bytes holds nothing: "
            "give the pool room for at least one block"
        )


def check_index(block_index: int, *, num_blocks: int) -> None:
    """Raise InvalidBlocks unless the index is a block's."""
    if not 0 <= block_index < num_blocks:
        raise InvalidBlocks(f"block {block_index} does not exist: this tier has blocks 0 to {num_blocks - 1}")

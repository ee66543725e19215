"""The bytes of one pool: a Storage per tier, reached by BlockId.

Owns the storages and closes them. Knows nothing of who uses a block; callers have checked that.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from memserve.core.enums import Tier
from memserve.core.errors import ConfigError, InvalidBlocks
from memserve.core.ids import BlockId, block_index, block_tier
from memserve.storage.base import ElasticStorage, Storage


class TierMemory:
    """Reads, writes and copies inside one process."""

    def __init__(self, storages: Mapping[Tier, Storage], *, block_bytes: int) -> None:
        self._storages = dict(storages)
        self._block_bytes = block_bytes

    @property
    def capacity(self) -> dict[Tier, int]:
        """Number of blocks by tier."""
        return {tier: storage.num_blocks for tier, storage in self._storages.items()}

    @property
    def block_bytes(self) -> int:
        return self._block_bytes

    def elastic(self, tier: Tier) -> ElasticStorage:
        """The storage of a tier whose size may change. Raises ConfigError for any other."""
        storage = self._storages.get(tier)
        if not isinstance(storage, ElasticStorage):
            raise ConfigError(f"the {tier.name} tier of this pool cannot change its size: {storage}")
        return storage

    def view(self, block: BlockId) -> memoryview:
        """Writable bytes of a block. Raises InvalidBlocks for a tier or an index that is not here."""
        try:
            storage = self._storages[block_tier(block)]
        except (KeyError, ValueError) as error:
            raise InvalidBlocks(f"block {block:#x} is of no tier of this pool") from error
        return storage.view(block_index(block))

    def write(self, blocks: Sequence[BlockId], data: memoryview) -> None:
        """`data` is as long as all blocks together. Raises InvalidBlocks otherwise, before anything is written."""
        size = self._block_bytes
        if data.nbytes != len(blocks) * size:
            raise InvalidBlocks(f"{data.nbytes} bytes for {len(blocks)} blocks of {size} bytes: give all their bytes")
        source = np.frombuffer(data, np.uint8)
        for position, block in enumerate(blocks):
            np.copyto(np.frombuffer(self.view(block), np.uint8), source[position * size : (position + 1) * size])

    def read(self, blocks: Sequence[BlockId]) -> bytes:
        return b"".join(self.view(block) for block in blocks)

    def copy(self, source: BlockId, target: BlockId) -> None:
        np.copyto(np.frombuffer(self.view(target), np.uint8), np.frombuffer(self.view(source), np.uint8))

    def close(self) -> None:
        for storage in self._storages.values():
            storage.close()

    def __repr__(self) -> str:
        return f"TierMemory({', '.join(f'{tier.name}: {storage}' for tier, storage in self._storages.items())})"

"""The bytes of one pool: a Storage per tier, reached by BlockId.

Owns the storages and closes them. Knows nothing of who uses a block; callers have checked that. Tiers that
cannot be mapped are read and written as whole blocks only.
"""

from collections.abc import Mapping, Sequence

from memserve.core.enums import Tier
from memserve.core.errors import ConfigError, InvalidBlocks
from memserve.core.ids import BlockId, block_index, block_tier
from memserve.storage.base import DeviceStorage, ElasticStorage, MappedStorage, Storage


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
        devices = [each for each in self._storages.values() if isinstance(each, DeviceStorage)]
        if devices:
            raise ConfigError(f"the {tier.name} tier cannot change its size: {devices[0]} reads and writes its memory")
        if not isinstance(storage, ElasticStorage):
            raise ConfigError(f"the {tier.name} tier of this pool cannot change its size: {storage}")
        return storage

    def view(self, block: BlockId, num_blocks: int = 1) -> memoryview:
        """Writable bytes of a block, or of so many neighbours.

        Raises InvalidBlocks for a tier or an index that is not here, or not mapped.
        """
        storage = self._storage(block)
        if not isinstance(storage, MappedStorage):
            raise InvalidBlocks(
                f"block {block:#x} lies on {block_tier(block).name}, which cannot be mapped: swap it in first"
            )
        return storage.view(block_index(block), num_blocks)

    def write(self, blocks: Sequence[BlockId], data: memoryview) -> None:
        """`data` is as long as all blocks together. Raises InvalidBlocks otherwise, before anything is written.

        Raises StorageFailed; the blocks after the one that failed are not written then.
        """
        size = self._block_bytes
        if data.nbytes != len(blocks) * size:
            raise InvalidBlocks(f"{data.nbytes} bytes for {len(blocks)} blocks of {size} bytes: give all their bytes")
        source = data.cast("B")
        for position, block in enumerate(blocks):
            self._storage(block).write(block_index(block), source[position * size : (position + 1) * size])

    def read(self, blocks: Sequence[BlockId]) -> bytes:
        """Raises StorageFailed when one of them cannot be read as it was written."""
        return b"".join(self.bytes_of(block) for block in blocks)

    def copy(self, source: BlockId, target: BlockId) -> None:
        """Raises StorageFailed; the target holds anything then."""
        storage = self._storage(target)
        if isinstance(storage, MappedStorage):
            self._storage(source).read(block_index(source), storage.view(block_index(target)))
        else:
            storage.write(block_index(target), self.bytes_of(source))

    def copy_at_once(self, pairs: Sequence[tuple[BlockId, BlockId]]) -> bool:
        """Copy all of (source, target) where a device can do so with one wait; False: nothing is copied.

        The pairs share a tier on either side.
        """
        if not pairs:
            return False
        sources, targets = zip(*pairs, strict=True)
        here, there = self._storage(sources[0]), self._storage(targets[0])
        if isinstance(here, DeviceStorage) and isinstance(there, MappedStorage):
            here.read_all([block_index(b) for b in sources], [self.view(b) for b in targets])
        elif isinstance(there, DeviceStorage) and isinstance(here, MappedStorage):
            there.write_all([block_index(b) for b in targets], [self.view(b) for b in sources])
        else:
            return False
        return True

    def close(self) -> None:
        """A device first, which lets go of the memory of the other tiers."""
        for storage in sorted(self._storages.values(), key=lambda each: not isinstance(each, DeviceStorage)):
            storage.close()

    def _storage(self, block: BlockId) -> Storage:
        try:
            return self._storages[block_tier(block)]
        except (KeyError, ValueError) as error:
            raise InvalidBlocks(f"block {block:#x} is of no tier of this pool") from error

    def bytes_of(self, block: BlockId) -> memoryview:
        """A view where there is one, else a copy."""
        storage = self._storage(block)
        if isinstance(storage, MappedStorage):
            return storage.view(block_index(block))
        copied = memoryview(bytearray(self._block_bytes))
        storage.read(block_index(block), copied)
        return copied

    def __repr__(self) -> str:
        return f"TierMemory({', '.join(f'{tier.name}: {storage}' for tier, storage in self._storages.items())})"

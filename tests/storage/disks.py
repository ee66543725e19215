"""Disk storages of a given number of blocks."""

from pathlib import Path

import msgspec

from memserve.storage.disk import DiskStorage
from memserve.wire.identity import KvIdentity

PAGE = 4096
LABEL_BYTES = 64


def identity(block_bytes: int, **changes: object) -> KvIdentity:
    made = KvIdentity(
        model="m", dtype="f4", engine="e", backend="b", block_size=4, block_bytes=block_bytes, num_layers=1
    )
    return msgspec.structs.replace(made, **changes)


def disk(path: Path, *, num_blocks: int, block_bytes: int, **changes: object) -> DiskStorage:
    """Room for exactly so many blocks: one page of head, and for each block one of header and its own pages."""
    slot_bytes = PAGE + -(-block_bytes // PAGE) * PAGE
    size_bytes = PAGE + num_blocks * slot_bytes
    return DiskStorage(path, identity=identity(block_bytes, **changes), size_bytes=size_bytes, label_bytes=LABEL_BYTES)

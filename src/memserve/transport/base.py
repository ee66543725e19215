"""How bytes of blocks get from one instance's memory into another's: one interface, one file per path.

A Transport copies and checks; it allocates nothing, publishes nothing and decides nothing. It blocks:
callers with an event loop run it on a thread.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec
import xxhash

from memserve.core.errors import TransferFailed
from memserve.wire.messages import ArenaRef


class BlockCopy(msgspec.Struct, frozen=True, kw_only=True):
    """One block to fetch."""

    source_index: int
    """Position in the sender's arena."""
    target: memoryview
    """Writable, one block long."""
    checksum: int
    """xxh3-64 of the bytes that are to arrive."""


class Transport(Protocol):
    @property
    def name(self) -> str:
        """Appears in reports: shm, tcp, nixl."""
        ...

    def fetch(self, arena: ArenaRef, copies: Sequence[BlockCopy]) -> None:
        """Copy all. Raises TransferFailed when a block does not arrive as it was sent, InstanceUnavailable
        when the arena cannot be reached; the targets then hold nothing that may be used."""
        ...

    def close(self) -> None:
        """Drop what is mapped or connected; idempotent."""
        ...


def checksum(block: memoryview) -> int:
    """xxh3-64 of one block's bytes."""
    return xxhash.xxh3_64_intdigest(block)


def check_arrived(copy: BlockCopy) -> None:
    """Raise TransferFailed unless the target holds the bytes that were announced."""
    found = checksum(copy.target)
    if found != copy.checksum:
        raise TransferFailed(
            f"block {copy.source_index} arrived with checksum {found:016x} instead of {copy.checksum:016x}: "
            "it changed while it was copied; nothing was published"
        )

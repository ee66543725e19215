"""How bytes of blocks get from one instance's memory into another's: one interface, one file per path.

A Transport copies and checks; it allocates nothing, publishes nothing and decides nothing. It blocks:
callers with an event loop run it on a thread.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from memserve.core.enums import DataPath
from memserve.core.errors import TransferFailed
from memserve.core.ids import TransferId
from memserve.wire.messages import PeerInfo


class BlockCopy(msgspec.Struct, frozen=True, kw_only=True):
    """One block to fetch."""

    source_index: int
    """Position in the sender's arena."""
    target: memoryview
    """Writable, one block long."""
    checksum: int
    """xxh3-64 of the bytes that are to arrive."""


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """Blocks that a peer lets this instance copy."""

    peer: PeerInfo
    transfer: TransferId
    ticket: bytes = b""


class Transport(Protocol):
    @property
    def name(self) -> DataPath: ...

    def reaches(self, peer: PeerInfo) -> bool:
        """Whether this path can lead to and from the peer. May look at this host, never waits for the peer."""
        ...

    def fetch(self, offer: Offer, copies: Sequence[BlockCopy]) -> None:
        """Copy all. Raises TransferFailed when a block does not arrive as it was sent, InstanceUnavailable
        when the sender cannot be reached; the targets then hold nothing that may be used, and nothing is
        written into them any more."""
        ...

    def close(self) -> None:
        """Drop what is mapped or connected; what is under way fails. Idempotent."""
        ...


def check_arrived(copy: BlockCopy, found: int) -> None:
    """Raise TransferFailed unless `found`, the xxh3-64 of what came into the target, was announced."""
    if found != copy.checksum:
        raise TransferFailed(
            f"block {copy.source_index} arrived with checksum {found:016x} instead of {copy.checksum:016x}: "
            "it changed on the way; nothing was published"
        )

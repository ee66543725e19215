"""How bytes of blocks get from one instance's memory into another's: one interface, one file per path.

A Transport copies and checks; it allocates nothing, publishes nothing and decides nothing. It blocks:
callers with an event loop run it on a thread.
"""

from collections.abc import Iterable, Iterator, Sequence
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


class RunCopy(msgspec.Struct, frozen=True, kw_only=True):
    """Blocks to fetch that are neighbours at both ends."""

    source_index: int
    """Position of the first one in the sender's arena."""
    target: memoryview
    """Writable, as long as all of them."""
    checksums: tuple[int, ...]
    """xxh3-64 of each block's bytes that are to arrive."""

    @property
    def block_bytes(self) -> int:
        return self.target.nbytes // len(self.checksums)

    def cut(self, num_blocks: int) -> "Iterator[RunCopy]":
        """In runs of at most so many blocks."""
        size = self.block_bytes
        for first in range(0, len(self.checksums), num_blocks):
            last = first + num_blocks
            yield RunCopy(
                source_index=self.source_index + first,
                target=self.target[first * size : last * size],
                checksums=self.checksums[first:last],
            )


def one_by_one(runs: Iterable[RunCopy]) -> list[BlockCopy]:
    """Each block of each run."""
    return [
        BlockCopy(source_index=one.source_index, target=one.target, checksum=one.checksums[0])
        for run in runs
        for one in run.cut(1)
    ]


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

    def fetch(self, offer: Offer, runs: Sequence[RunCopy]) -> None:
        """Copy all. Raises TransferFailed when a block does not arrive as it was sent, InstanceUnavailable
        when the sender cannot be reached; the targets then hold nothing that may be used, and nothing is
        written into them any more."""
        ...

    def close(self) -> None:
        """Drop what is mapped or connected; what is under way fails. Idempotent."""
        ...


def check_arrived(source_index: int, found: int, *, announced: int) -> None:
    """Raise TransferFailed unless `found`, the xxh3-64 of what came into the target, was announced."""
    if found != announced:
        raise TransferFailed(
            f"block {source_index} arrived with checksum {found:016x} instead of {announced:016x}: "
            "it changed on the way; nothing was published"
        )

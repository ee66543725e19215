"""What MemPool's calls return."""

from collections.abc import Callable
from types import TracebackType

import msgspec

from memserve.core.enums import Tier
from memserve.core.ids import block_tier
from memserve.wire.messages import BlockList, DiskStats, PeerInfo, TierStats


class Received(msgspec.Struct, frozen=True, kw_only=True):
    """Blocks that a peer has transferred here, with the opaque data it attached."""

    sender: PeerInfo
    addresses: BlockList
    private: bytes


class PoolStats(msgspec.Struct, frozen=True, kw_only=True):
    tiers: tuple[TierStats, ...]
    num_leases: int
    num_transfers_open: int
    num_handoffs: int
    num_notices_dropped: int
    """Received notices that nobody took in time."""
    num_reports_dropped: int
    """RequestReports that did not reach the cluster manager."""
    num_offloaded: int = 0
    """Blocks that went to memory instances and were dropped here."""
    disk: DiskStats | None = None
    """What the disk tier has done; None where there is none."""


class PoolMatch(msgspec.Struct, frozen=True, kw_only=True):
    """The longest cached prefix, safe from eviction until `release` or the end of its `with` block."""

    addresses: BlockList
    num_tokens: int
    """0 when nothing is cached."""
    num_engine_tokens: int = 0
    """Leading tokens that the engine's own prefix cache holds, in blocks that nobody else can read."""
    give_back: Callable[[], None]

    @property
    def tiers(self) -> tuple[Tier, ...]:
        """Where each of the blocks lies; what is on disk has to be swapped in before it can be viewed."""
        return tuple(map(block_tier, self.addresses.blocks))

    def release(self) -> None:
        """Let the pool evict the blocks again; idempotent."""
        self.give_back()

    def __enter__(self) -> "PoolMatch":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.give_back()


def nothing() -> None:
    """Releases the lease of a match that found nothing."""

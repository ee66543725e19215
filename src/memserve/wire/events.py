"""What an instance tells of its index: numbered facts, and a snapshot for a reader that has missed some.

Owns their shapes. A pool makes them, its agent keeps the latest for a while and answers who asks, a reader
hands them on in batches. Never says where a block lies in memory.

    snapshot (as of seq 40) ──> 41, 42, 43 ... each seq once ──> a hole: ask again, or for a new snapshot
"""

import msgspec

from memserve.core.enums import Tier
from memserve.core.ids import Incarnation, InstanceId
from memserve.wire.identity import Namespace


class PoolFact(msgspec.Struct, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """Base of all: `seq` starts at 1 and grows by one with each fact; a hole means that some are lost."""

    seq: int


class BlocksStored(PoolFact, frozen=True):
    """All whole blocks of `tokens` are indexed now; the last `num_blocks` of them are new."""

    namespace: Namespace
    tokens: bytes
    """Little-endian int32, from the start of the prompt."""
    num_blocks: int
    tier: Tier
    is_mirrored: bool = False
    """They lie in the engine's own prefix cache, where no peer can read them. What is mirrored and what the pool
    itself has are two pictures: a prompt may be in either or in both, and an eviction from one leaves the other."""


class BlocksEvicted(PoolFact, frozen=True):
    """The last block of `tokens` and everything below it are no longer indexed: evicted or deleted."""

    namespace: Namespace
    tokens: bytes
    num_blocks: int
    """How many blocks went, those below included."""
    is_mirrored: bool = False
    """From the engine's own prefix cache."""


class BlocksMoved(PoolFact, frozen=True):
    """The last `num_blocks` blocks of `tokens` lie in another tier now."""

    namespace: Namespace
    tokens: bytes
    num_blocks: int
    source: Tier
    target: Tier


IndexEvent = BlocksStored | BlocksEvicted | BlocksMoved


class TierRun(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Consecutive blocks of one tier."""

    tier: Tier
    num_blocks: int


class IndexEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A run of indexed blocks. Its prompt: the first `at` bytes of the entry before it in the list, then `tokens`."""

    namespace: Namespace
    at: int
    """0 for the first of a list: it holds its prompt from the start."""
    tokens: bytes
    tiers: tuple[TierRun, ...]
    """Of the last blocks of `tokens`; the first of a list may have earlier ones, told before."""
    is_mirrored: bool = False
    """In the engine's own prefix cache. These come last, the first of them with its prompt from the start."""


class EventBatch(msgspec.Struct, frozen=True, kw_only=True):
    """Events of one incarnation, as a reader hands them on."""

    instance: InstanceId
    incarnation: Incarnation
    events: tuple[IndexEvent, ...]
    as_of: float | None
    """Reader's clock, seconds: with these events everything up to then is told. None: more are waiting."""


class SnapshotPart(msgspec.Struct, frozen=True, kw_only=True):
    """A part of all that one incarnation had indexed after event `seq`; parts come in order."""

    instance: InstanceId
    incarnation: Incarnation
    seq: int
    entries: tuple[IndexEntry, ...]
    is_first: bool
    is_last: bool


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a batch or a part of a snapshot."""

    position: int | None
    """Everything up to this event is known; None: nothing is, a snapshot is needed."""
    discarded: dict[str, int] = msgspec.field(default_factory=dict)
    """How many were of no use, by reason."""

"""What every message is made of, and what several kinds of them carry."""

import msgspec

from memserve.core.enums import Tier
from memserve.core.ids import BlockId, Incarnation, InstanceId, PinId
from memserve.wire.identity import KvIdentity


class Message(msgspec.Struct, frozen=True, kw_only=True, tag=True, omit_defaults=True, forbid_unknown_fields=True):
    """Base of all: the tag is the class name."""


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A part of a message."""


class ArenaRef(Record, frozen=True):
    """Shared memory that another process of the same host can map: block i lies at i * block_bytes."""

    host: str
    """Boot id of the host: only processes with the same one can map it."""
    path: str
    block_bytes: int
    num_blocks: int


class PeerInfo(Record, frozen=True):
    """Who an instance is and how its pool is reached."""

    instance: InstanceId
    incarnation: Incarnation
    endpoint: str
    """ZMQ endpoint of its agent, e.g. tcp://127.0.0.1:5555."""
    identity: KvIdentity
    arena: ArenaRef | None = None
    """None: nobody may map its memory."""
    data: str = ""
    """Where its data server takes and gives bytes of blocks, e.g. tcp://127.0.0.1:5556; "" where it has none."""
    nixl: bool = False
    """Its data server shows blocks to NIXL."""


class BlockList(Record, frozen=True):
    """The paper's addrList: blocks of one instance's pool; each id also tells its tier."""

    instance: InstanceId
    incarnation: Incarnation
    blocks: tuple[BlockId, ...]


class TierStats(Record, frozen=True):
    tier: Tier
    num_blocks: int
    num_free: int
    num_reserved: int
    num_cached: int
    """Historical blocks, named by the index."""
    num_leased: int
    """Cached blocks that at least one lease protects."""
    num_pinned: int = 0
    """Cached blocks that at least one pin protects."""


class Pinned(Record, frozen=True):
    """One pinned prefix of one pool."""

    pin: PinId
    num_tokens: int
    """What was asked for, in whole blocks."""
    num_pinned_tokens: int = 0
    """What of it is indexed and protected."""
    num_blocks: int = 0


class DiskStats(Record, frozen=True):
    """What a pool's disk tier has done since its process started, in blocks."""

    num_restored: int = 0
    """Found at the start, left there by an earlier process."""
    num_demoted: int = 0
    """Moved from another tier to disk."""
    num_promoted: int = 0
    """Moved from disk to another tier."""
    num_read_errors: int = 0
    """Were on disk and could not be read as they were written: their entries were dropped."""
    num_write_errors: int = 0
    """Could not be written: they stayed in their tier, or were dropped there when its room was needed."""


class AckReply(Message, frozen=True):
    pass


class ErrorReply(Message, frozen=True):
    """The request changed nothing. `kind` is the name of a class in memserve.core.errors."""

    kind: str
    text: str

"""Gateway or manager to instance: what an operator asks of one pool. A Request has one Reply."""

from memserve.core.enums import DataPath
from memserve.core.ids import Incarnation, InstanceId
from memserve.wire.messages.base import Message, PeerInfo, Record, TierStats


class ResizeRequest(Message, frozen=True):
    """Grow or shrink the DRAM tier of this very incarnation to so many bytes, rounded down to whole blocks."""

    instance: InstanceId
    incarnation: Incarnation
    num_bytes: int


class ResizeReply(Message, frozen=True):
    block_bytes: int
    before: TierStats
    after: TierStats


class PathsRequest(Message, frozen=True):
    """By which ways do bytes go between you and these?"""

    peers: tuple[PeerInfo, ...]


class PeerPath(Record, frozen=True):
    peer: InstanceId
    path: DataPath | None
    """How blocks come from it (transfers, pulls) and KV is brought to it (hand-overs). None: no way leads there."""


class PathsReply(Message, frozen=True):
    paths: tuple[PeerPath, ...]
    """One for each peer that was named."""


class Heir(Record, frozen=True):
    """Somebody who takes over what is cached where an instance goes."""

    peer: PeerInfo
    max_tokens: int
    """How much it has room for, about."""


class HandOnRequest(Message, frozen=True):
    """Begin to hand the cache of this very incarnation on, or say how far that is: repeating it begins nothing anew."""

    instance: InstanceId
    incarnation: Incarnation
    heirs: tuple[Heir, ...]


class HandOnReply(Message, frozen=True):
    is_done: bool
    num_prompts: int
    """Of the cache when it began, those that none continues."""
    num_prompts_done: int
    """Offered so far, whether taken or not."""
    num_tokens: int
    """That went over: what an heir had already did not have to."""
    num_failed: int
    """Prompts that nobody took."""

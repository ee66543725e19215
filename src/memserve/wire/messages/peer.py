"""Instance to instance: memory, transfers, reservations, pulls, events. A Request has one Reply.

Tokens travel as little-endian int32 bytes: `tokens: bytes` holds 4 bytes a token. A transfer is
named by its sender; repeating any message with the same transfer id changes nothing.
"""

from memserve.core.enums import DataPath, Tier
from memserve.core.ids import BlockId, Incarnation, InstanceId, RequestId, TransferId
from memserve.wire.events import IndexEntry, IndexEvent
from memserve.wire.identity import Namespace
from memserve.wire.messages.admin import (
    HandOnReply,
    HandOnRequest,
    PathsReply,
    PathsRequest,
    ResizeReply,
    ResizeRequest,
)
from memserve.wire.messages.base import AckReply, BlockList, ErrorReply, Message, PeerInfo, TierStats
from memserve.wire.messages.pins import PinReply, PinRequest, PinsReply, PinsRequest, UnpinReply, UnpinRequest
from memserve.wire.messages.self_test import ProbeReply, ProbeRequest, SelfTestReply, SelfTestRequest


class HelloRequest(Message, frozen=True):
    """Handshake, once per connection; refused with an ErrorReply on another identity or protocol."""

    peer: PeerInfo


class HelloReply(Message, frozen=True):
    peer: PeerInfo


class AllocRequest(Message, frozen=True):
    num_blocks: int
    tier: Tier
    owner: InstanceId
    incarnation: Incarnation
    ttl_s: float


class AllocReply(Message, frozen=True):
    blocks: tuple[BlockId, ...]


class FreeRequest(Message, frozen=True):
    blocks: tuple[BlockId, ...]


class TransferRequest(Message, frozen=True):
    """Move `source` to the receiver; on one host the receiver copies from the sender's arena itself.

    Without `destination` the receiver allocates in `tier`. With `tokens` the blocks are indexed at
    the receiver once they are complete and verified. One request and one reply in all.
    """

    transfer: TransferId
    source: BlockList
    tier: Tier
    checksums: tuple[int, ...]
    """xxh3-64 of each source block."""
    destination: tuple[BlockId, ...] | None = None
    tokens: bytes | None = None
    namespace: Namespace = b""
    private: bytes = b""
    ttl_s: float = 60.0
    ticket: bytes = b""
    """Whoever shows it to the sender's data server may read the source blocks until the reply is there."""
    num_held_blocks: int = 0
    """With tokens: `source` follows this many leading blocks, which the receiver has indexed already."""
    notify: bool = True
    """Tell the receiver's application; one that has pulled the blocks knows."""


class TransferReply(Message, frozen=True):
    blocks: tuple[BlockId, ...]
    """Where the blocks are now; with tokens, what the index names (an earlier copy wins)."""


class PullRequest(Message, frozen=True):
    """Send me what you hold of `tokens` beyond their first `num_held_tokens`, which I hold.

    Answered after the blocks went to the asker, by one TransferRequest that indexes them. Repeating it
    sends nothing again as long as the transfer is remembered.
    """

    transfer: TransferId
    """Name of that TransferRequest: here the receiver chooses it."""
    tokens: bytes
    namespace: Namespace
    num_held_tokens: int
    """In whole blocks."""
    deadline_s: float
    """After this many seconds the asker waits no more, and nothing is sent any more."""


class PullReply(Message, frozen=True):
    num_tokens: int
    """How many tokens were sent, from the first one lacking on; 0 when no more than that is held."""


class OfferRequest(Message, frozen=True):
    """I hold these tokens and shall go: pull what you lack of them. Answered when that is done or has failed."""

    tokens: bytes
    namespace: Namespace


class OfferReply(Message, frozen=True):
    num_tokens: int
    """How many came over."""


class ReserveRequest(Message, frozen=True):
    """Engine path, first half: make room for the KV of `tokens` before or while it is computed.

    The sender then writes straight into the reserved blocks and sends CommitRequest. `reuse` lets
    the receiver count blocks that its index already holds; `tail` also reserves a block for the
    tokens after the last whole block. `request` names the request that will ask for the blocks.
    """

    transfer: TransferId
    request: RequestId
    sender: InstanceId
    incarnation: Incarnation
    tokens: bytes
    namespace: Namespace
    reuse: bool
    tail: bool
    handoff: bool
    """Keep the blocks under a lease for `request`; otherwise only the index will name them."""
    ttl_s: float
    path: DataPath = DataPath.SHM
    """How the bytes will come; over the network each of them is verified before a commit counts."""


class ReserveReply(Message, frozen=True):
    num_held_blocks: int
    """Leading blocks that the receiver has already and keeps under a lease for this transfer."""
    blocks: tuple[BlockId, ...]
    """Room for the following ones, the tail last."""
    ticket: bytes = b""
    """Whoever shows it to the receiver's data server may write into that room until it is committed."""


class CommitRequest(Message, frozen=True):
    """Engine path, second half: all reserved blocks are written, as far as they are this rank's part.

    The last of the sender's ranks to commit publishes them in one step.
    """

    transfer: TransferId
    num_blocks: int
    """How many blocks were written whole; anything but the reserved number is refused."""
    insert: bool
    """Index the whole blocks (context caching at the receiver)."""
    rank: int = 0
    num_ranks: int = 1


class AbortRequest(Message, frozen=True):
    """The sender gives a reservation up; freed at once."""

    transfer: TransferId


class ReleaseRequest(Message, frozen=True):
    """Nobody will ask for what is held for this request; freed at once."""

    request: RequestId


class StatsRequest(Message, frozen=True):
    pass


class StatsReply(Message, frozen=True):
    tiers: tuple[TierStats, ...]
    num_leases: int
    num_transfers_open: int
    num_handoffs: int


class EventsRequest(Message, frozen=True):
    """What happened to this incarnation's index after event `after_seq`? Waits for something to tell."""

    instance: InstanceId
    incarnation: Incarnation
    after_seq: int
    max_wait_s: float


class EventsReply(Message, frozen=True):
    """The next events in order, none when nothing happened in time."""

    last_seq: int
    """Of the latest event there is; beyond the last one told, there are more to ask for."""
    events: tuple[IndexEvent, ...] = ()
    is_gap: bool = False
    """The event after `after_seq` is no longer known, or never was: start anew from a snapshot."""


class SnapshotRequest(Message, frozen=True):
    """All that the index names: from the start, or on from an earlier reply."""

    instance: InstanceId
    incarnation: Incarnation
    seq: int | None = None
    """Names the snapshot that an earlier reply began; None begins one."""
    position: int = 0


class SnapshotReply(Message, frozen=True):
    seq: int
    """The latest event that the snapshot contains."""
    entries: tuple[IndexEntry, ...]
    next_position: int | None = None
    """Where to go on; None: that is all."""


PeerMessage = (
    HelloRequest | HelloReply | AllocRequest | AllocReply | FreeRequest | TransferRequest | TransferReply
    | ReserveRequest | ReserveReply | CommitRequest | AbortRequest | ReleaseRequest | StatsRequest | StatsReply
    | PullRequest | PullReply | EventsRequest | EventsReply | SnapshotRequest | SnapshotReply
    | ResizeRequest | ResizeReply | HandOnRequest | HandOnReply | OfferRequest | OfferReply
    | PathsRequest | PathsReply
    | PinRequest | PinReply | UnpinRequest | UnpinReply | PinsRequest | PinsReply
    | SelfTestRequest | SelfTestReply | ProbeRequest | ProbeReply
    | AckReply | ErrorReply
)  # fmt: skip

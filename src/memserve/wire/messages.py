"""Every message between processes, as tagged frozen structs. A Request has one Reply.

Tokens travel as little-endian int32 bytes: `tokens: bytes` holds 4 bytes a token. A transfer is
named by its sender; repeating any message with the same transfer id changes nothing.
"""

import msgspec

from memserve.core.enums import DataPath, Phase, Role, Tier, TransferMode
from memserve.core.ids import BlockId, Epoch, Incarnation, InstanceId, RequestId, TransferId
from memserve.wire.events import IndexEntry, IndexEvent
from memserve.wire.identity import KvIdentity, Namespace


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


class BlockList(Record, frozen=True):
    """The paper's addrList: blocks of one instance's pool; each id also tells its tier."""

    instance: InstanceId
    incarnation: Incarnation
    blocks: tuple[BlockId, ...]


# ---------------------------------------------------------------- instance <-> instance


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


class TierStats(Record, frozen=True):
    tier: Tier
    num_blocks: int
    num_free: int
    num_reserved: int
    num_cached: int
    """Historical blocks, named by the index."""
    num_leased: int
    """Cached blocks that at least one lease protects."""


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


class AckReply(Message, frozen=True):
    pass


class ErrorReply(Message, frozen=True):
    """The request changed nothing. `kind` is the name of a class in memserve.core.errors."""

    kind: str
    text: str


PeerMessage = (
    HelloRequest | HelloReply | AllocRequest | AllocReply | FreeRequest | TransferRequest | TransferReply
    | ReserveRequest | ReserveReply | CommitRequest | AbortRequest | ReleaseRequest | StatsRequest | StatsReply
    | PullRequest | PullReply | EventsRequest | EventsReply | SnapshotRequest | SnapshotReply
    | AckReply | ErrorReply
)  # fmt: skip


# ---------------------------------------------------------------- instance -> cluster manager


class Load(Record, frozen=True):
    """What an instance has to do, told with each heartbeat."""

    num_running: int = 0
    num_waiting: int = 0
    pool: tuple[TierStats, ...] = ()


class JoinRequest(Message, frozen=True):
    cluster: str
    peer: PeerInfo
    role: Role
    url: str
    """Base URL of the instance's OpenAI-compatible server; "" for a memory instance."""
    pid: int


class JoinReply(Message, frozen=True):
    epoch: Epoch
    heartbeat_s: float


class HeartbeatRequest(Message, frozen=True):
    instance: InstanceId
    incarnation: Incarnation
    load: Load


class DeadInstance(Record, frozen=True):
    instance: InstanceId
    incarnation: Incarnation


class HeartbeatReply(Message, frozen=True):
    epoch: Epoch
    known: bool
    """False: the manager does not know this incarnation; join again."""
    dead: tuple[DeadInstance, ...] = ()
    """Instances that left since this one joined: free what they hold here."""


class LeaveRequest(Message, frozen=True):
    instance: InstanceId
    incarnation: Incarnation


class MovedBlocks(Record, frozen=True):
    """Blocks that went from one instance to another for one request."""

    source: InstanceId
    target: InstanceId
    path: str
    """Transport that carried the bytes: shm, tcp, nixl."""
    num_blocks: int
    num_tokens: int
    num_bytes: int
    num_calls: int
    """Data operations: 1 when aggregated by request, one per layer and step otherwise."""
    seconds: float


class RequestReport(Record, frozen=True):
    """What one instance did for one request. Tokens add up: hbm + dram + received + computed = prompt."""

    request: RequestId
    instance: InstanceId
    phase: Phase
    prompt_tokens: int
    hbm_tokens: int
    """Prompt tokens found in the engine's own prefix cache."""
    dram_tokens: int
    """Prompt tokens loaded from the pool, those handed over by another instance not among them."""
    received_tokens: int
    """Prompt tokens loaded from what another instance handed over for this request."""
    computed_tokens: int
    output_tokens: int
    moved: tuple[MovedBlocks, ...] = ()
    part: str = ""
    """Tells engine requests of one client request apart: n > 1, several prompts."""
    pulled_tokens: int = 0
    """Of `dram_tokens`, those that came from another instance's pool for this request: see RequestParams.source."""


class ReportRequest(Message, frozen=True):
    """The request is finished on this instance, its saves and sends included."""

    report: RequestReport


ClusterMessage = (
    JoinRequest | JoinReply | HeartbeatRequest | HeartbeatReply | LeaveRequest | ReportRequest | AckReply | ErrorReply
)


# ---------------------------------------------------------------- gateway -> connector, inside kv_transfer_params


class RequestParams(Record, frozen=True):
    """Value of kv_transfer_params["memserve"]: what the gateway wants the instance to do."""

    request: RequestId
    phase: Phase
    peer: PeerInfo | None = None
    """For PREFILL, the decode instance that takes the KV; for DECODE, the prefill instance to return it to."""
    transfer: TransferMode | None = None
    """How the KV leaves; None: as the instance was configured."""
    source: PeerInfo | None = None
    """An instance that holds more of the prompt: pull that before computing."""

"""Instance to cluster manager: join, heartbeat, report, leave."""

from memserve.core.enums import Phase, Role, TransferMode
from memserve.core.ids import Epoch, Incarnation, InstanceId, RequestId
from memserve.wire.identity import KvIdentity
from memserve.wire.messages.base import AckReply, DiskStats, ErrorReply, Message, PeerInfo, Record, TierStats


class Load(Record, frozen=True):
    """What an instance has to do, told with each heartbeat."""

    num_running: int = 0
    num_waiting: int = 0
    pool: tuple[TierStats, ...] = ()
    disk: DiskStats | None = None
    """None: it has no disk tier."""
    num_offloaded: int = 0
    """Blocks that it has moved to memory instances since its start."""


class JoinRequest(Message, frozen=True):
    cluster: str
    peer: PeerInfo
    role: Role
    url: str
    """Base URL of the instance's OpenAI-compatible server; "" for a memory instance."""
    pid: int
    can_play: tuple[Role, ...] = ()
    """Roles that it can change to while it runs."""


class JoinReply(Message, frozen=True):
    epoch: Epoch
    """Of the first view with this incarnation: a reply that was lost may have come before deaths that concern it."""
    heartbeat_s: float


class HeartbeatRequest(Message, frozen=True):
    instance: InstanceId
    incarnation: Incarnation
    load: Load
    seen: Epoch = Epoch(0)
    """Of the latest reply that came: who died since then is to be told."""


class DeadInstance(Record, frozen=True):
    instance: InstanceId
    incarnation: Incarnation


class HeartbeatReply(Message, frozen=True):
    epoch: Epoch
    known: bool
    """False: the manager does not know this incarnation; join again."""
    dead: tuple[DeadInstance, ...] = ()
    """Instances that left after the epoch that was seen: free what they hold here."""
    role: Role | None = None
    """What it is now, which may not be what it joined as; None when it is not known."""
    dismissed: bool = False
    """It has been drained: it is to end by itself."""
    memory: tuple[PeerInfo, ...] = ()
    """Memory instances that take what it has no room for."""


class LeaveRequest(Message, frozen=True):
    instance: InstanceId
    incarnation: Incarnation


class DrainRequest(Message, frozen=True):
    """From an instance that would like to go: drain me, and tell me by `dismissed` when that is done."""

    instance: InstanceId
    incarnation: Incarnation


class WelcomeRequest(Message, frozen=True):
    """From whoever is about to start an instance: what has it to be like?"""


class WelcomeReply(Message, frozen=True):
    cluster: str
    config: bytes
    """The settings of the cluster as JSON, in the shape of memserve.config.ServeConfig."""
    identity: KvIdentity | None = None
    """Of the instances that are in the cluster; None before the first."""
    join: str = ""
    """Where its members are registered; "" with whom was asked."""


class MemberRequest(Message, frozen=True):
    """From whoever runs an instance: how is it?"""

    instance: InstanceId


class MemberReply(Message, frozen=True):
    state: str
    """Of the incarnation that is in the cluster; "" when there is none."""
    dismissed: bool
    """It has been drained: end it."""
    refusal: str
    """Why the latest one that wanted to join under this name was refused; "" when it was not."""
    managers: tuple[str, ...] = ()
    """Endpoints that can be asked the same, where the cluster has several gateways."""


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
    """Data operations: frames over the network, copies of the whole or of a layer where memory is mapped."""
    seconds: float
    mode: TransferMode = TransferMode.BY_REQUEST
    """By layer, `seconds` is the time of the computation as well."""


class RequestReport(Record, frozen=True):
    """What one instance did for one request. Tokens add up: hbm + dram + disk + received + computed = prompt."""

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
    queue_s: float = 0.0
    """From its arrival in the engine until it had room there and nothing to wait for, a pull included."""
    run_s: float = 0.0
    """From then until its last token."""
    disk_tokens: int = 0
    """Prompt tokens loaded from the pool that were on its disk tier when the request came."""


class ReportRequest(Message, frozen=True):
    """The request is finished on this instance, its saves and sends included."""

    report: RequestReport


ClusterMessage = (
    JoinRequest | JoinReply | HeartbeatRequest | HeartbeatReply | LeaveRequest | ReportRequest | DrainRequest
    | WelcomeRequest | WelcomeReply | MemberRequest | MemberReply | AckReply | ErrorReply
)  # fmt: skip

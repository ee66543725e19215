"""What the processes of one gateway say to each other: worker 0, which has the cluster manager, and the others.

Each of the others asks worker 0 again and again what is new (FollowRequest) and tells it meanwhile what it has under
way. HTTP that only one of them can answer goes from the one that was asked to the one that can (AppRequest). All of
it by the control RPC (rpc/channel.py), under a secret that is made for one run.
"""

from memserve.cluster.service_levels import Levels
from memserve.cluster.view import ClusterView
from memserve.core.enums import TransferMode
from memserve.core.ids import Incarnation, InstanceId
from memserve.wire.messages import AckReply, ErrorReply, Message, Record, RequestReport


class Books(Record, frozen=True):
    """What one worker has under way."""

    num_in_flight: int = 0
    draining: dict[InstanceId, int] = {}
    """Its requests that still need an instance which is on its way out."""
    queued_tokens: dict[InstanceId, int] = {}
    """As SchedulerStats.queued_tokens."""
    levels: Levels | None = None
    """Of the requests that came to it; None where nobody scales by them."""


class Choices(Record, frozen=True):
    """What an operator may change while the gateway serves."""

    policy: str
    transfer: TransferMode | None = None


class FollowRequest(Message, frozen=True):
    """What is new after `seen`? Answered at once when there is something, and after a while in any case."""

    worker: int
    pid: int
    endpoint: str
    """Where this worker answers an AppRequest."""
    is_serving: bool
    """It listens at the shared port."""
    seen: int
    """`serial` of the latest reply, all of it taken in; 0 before the first."""
    books: Books


class FollowReply(Message, frozen=True):
    serial: int
    choices: Choices
    view: ClusterView | None = None
    """None: as it was."""
    reports: tuple[RequestReport, ...] = ()
    """Of requests of this worker; told once."""


class FaultRequest(Message, frozen=True):
    """A request met a fault at this instance."""

    instance: InstanceId
    incarnation: Incarnation
    why: str


class AppRequest(Message, frozen=True):
    """One HTTP request, whole."""

    method: str
    path: str
    query: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""


class AppReply(Message, frozen=True):
    status: int
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""


WorkerMessage = FollowRequest | FollowReply | FaultRequest | AppRequest | AppReply | AckReply | ErrorReply

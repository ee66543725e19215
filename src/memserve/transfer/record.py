"""One entry of the receiver's books: a transfer, what it owns in the ledger and until when."""

from dataclasses import dataclass, field

from memserve.core.enums import DataPath
from memserve.core.ids import BlockId, Incarnation, InstanceId, RequestId, TransferId
from memserve.transfer.states import TransferState
from memserve.wire.data_messages import WriteRequest
from memserve.wire.identity import Namespace

TOKEN_BYTES = 4
"""Tokens travel as little-endian int32."""


Spans = tuple[tuple[int, int], ...]
"""Byte ranges (start, end), ascending and apart."""


@dataclass(kw_only=True)
class Arrived:
    """What has come over the network for one reservation; keys are positions in the arena."""

    block_bytes: int
    blocks: dict[int, BlockId]
    verified: dict[int, Spans] = field(default_factory=dict)
    under_way: list[WriteRequest] = field(default_factory=list)
    """Frames that are being written."""


@dataclass(kw_only=True)
class TransferRecord:
    """Mutable; owned by the books alone."""

    transfer: TransferId
    sender: str
    """"instance/incarnation" of the peer that started it."""
    state: TransferState
    expires_at: float
    """Seconds on the injected clock; not looked at while COPYING."""
    ttl_s: float
    blocks: tuple[BlockId, ...]
    """Reserved, being filled, held or kept; for KEPT the leased leading blocks are among them."""
    held: tuple[BlockId, ...] = ()
    """Leading blocks that the index had already, under a lease."""
    tokens: bytes | None = None
    namespace: Namespace = b""
    request: RequestId | None = None
    """The request that will ask for the blocks; None when nobody will."""
    is_claimed: bool = False
    """That request has come."""
    borrowed: bool = False
    """The blocks belong to other HELD records of the sender (an explicit destination)."""
    committed_ranks: set[int] = field(default_factory=set)
    """Ranks of the sender that have written their part of every reserved block."""
    sender_left: bool = False
    """Told while the copy was under way: afterwards nothing stays in the sender's name."""
    path: DataPath = DataPath.SHM
    """How the sender brings the bytes."""
    arrived: Arrived | None = None
    """None while nothing has come over the network."""
    is_given_up: bool = False
    """Aborted while a frame was being written: it ends with that frame."""

    @property
    def owner(self) -> str:
        """Name under which the ledger knows what this transfer holds."""
        return f"transfer/{self.transfer}"


def peer_owner(instance: InstanceId, incarnation: Incarnation) -> str:
    """Name of one life of a peer."""
    return f"{instance}/{incarnation}"

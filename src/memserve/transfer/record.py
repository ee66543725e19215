"""One entry of the receiver's books: a transfer, what it owns in the ledger and until when."""

from dataclasses import dataclass

from memserve.core.ids import BlockId, Incarnation, InstanceId, RequestId, TransferId
from memserve.transfer.states import TransferState
from memserve.wire.identity import Namespace

TOKEN_BYTES = 4
"""Tokens travel as little-endian int32."""


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
    borrowed: bool = False
    """The blocks belong to other HELD records of the sender (an explicit destination)."""
    sender_left: bool = False
    """Told while the copy was under way: afterwards nothing stays in the sender's name."""

    @property
    def owner(self) -> str:
        """Name under which the ledger knows what this transfer holds."""
        return f"transfer/{self.transfer}"


def peer_owner(instance: InstanceId, incarnation: Incarnation) -> str:
    """Name of one life of a peer."""
    return f"{instance}/{incarnation}"

"""Messages of data connections, on which bytes of blocks follow some messages: requests to an instance's data server.

A request shows the ticket that a ReserveReply or a TransferRequest gave for its transfer; that alone opens
those blocks and no others. Refusals are ErrorReplies.
"""

from memserve.core.ids import TransferId
from memserve.wire.messages import AckReply, ErrorReply, Message


class WriteRequest(Message, frozen=True):
    """The bytes that follow go into reserved blocks: `length` at `offset` of each one, in this order.

    A whole block, one rank's part of it or one layer's page. Answered once all of them are verified.
    """

    transfer: TransferId
    ticket: bytes
    blocks: tuple[int, ...]
    """Positions in the receiver's arena."""
    offset: int
    length: int
    checksums: tuple[int, ...]
    """xxh3-64 of each block's part."""


class ReadRequest(Message, frozen=True):
    """Asks the sender of a TransferRequest for source blocks, whole, in this order."""

    transfer: TransferId
    ticket: bytes
    blocks: tuple[int, ...]
    """Positions in the sender's arena."""


class ReadReply(Message, frozen=True):
    """The bytes that were asked for follow."""


class ExposeRequest(Message, frozen=True):
    """Asks the sender of a TransferRequest to show source blocks to NIXL, until the asker says AckReply or is gone."""

    transfer: TransferId
    ticket: bytes
    blocks: tuple[int, ...]
    """Positions in the sender's arena."""


class ExposeReply(Message, frozen=True):
    agent: str
    """Name of the sender's NIXL agent."""
    metadata: bytes
    """What NIXL needs to reach it."""
    addresses: tuple[int, ...]
    """Of each block in the sender's memory."""
    digest: int
    """xxh3-64 of the three above."""


class ShownWriteRequest(Message, frozen=True):
    """A WriteRequest whose bytes do not follow: NIXL reads them where the sender shows them until it is answered."""

    write: WriteRequest
    shown: ExposeReply
    """One address for each part."""


DataMessage = (
    WriteRequest | ShownWriteRequest | ReadRequest | ReadReply | ExposeRequest | ExposeReply | AckReply | ErrorReply
)

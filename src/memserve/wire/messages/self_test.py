"""Whether bytes get from one instance to another: the manager asks one, which tries it out with the other."""

from memserve.core.enums import DataPath
from memserve.core.ids import BlockId, Incarnation, InstanceId, TransferId
from memserve.wire.messages.base import Message, PeerInfo, Record


class SelfTestRequest(Message, frozen=True):
    """Move one block to each of these peers by every path, and have it checked there."""

    instance: InstanceId
    incarnation: Incarnation
    peers: tuple[PeerInfo, ...]


class PathCheck(Record, frozen=True):
    """One block, one way, one direction."""

    source: InstanceId
    target: InstanceId
    path: DataPath
    is_possible: bool
    """Both allow the path and it leads from one to the other, as far as can be told without trying."""
    answered: bool
    """The target said how it went; otherwise nothing is known of the path."""
    fault: str
    """"" where the block arrived as it was."""
    seconds: float

    @property
    def is_right(self) -> bool:
        return self.is_possible and self.answered and not self.fault


class SelfTestReply(Message, frozen=True):
    checks: tuple[PathCheck, ...]


class ProbeRequest(Message, frozen=True):
    """Fetch this block of mine by this path into memory of yours, and say whether it arrived as it is."""

    transfer: TransferId
    block: BlockId
    checksum: int
    """xxh3-64 of its bytes."""
    path: DataPath
    ticket: bytes
    """Opens the sender's data server for it."""


class ProbeReply(Message, frozen=True):
    is_possible: bool
    """This side allows the path and it leads to the sender."""
    fault: str = ""

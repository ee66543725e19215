"""Gateway to instance: what an operator asks of one pool. A Request has one Reply."""

from memserve.core.ids import Incarnation, InstanceId
from memserve.wire.messages.base import Message, TierStats


class ResizeRequest(Message, frozen=True):
    """Grow or shrink the DRAM tier of this very incarnation to so many bytes, rounded down to whole blocks."""

    instance: InstanceId
    incarnation: Incarnation
    num_bytes: int


class ResizeReply(Message, frozen=True):
    block_bytes: int
    before: TierStats
    after: TierStats

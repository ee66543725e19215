"""Gateway to instance: prefixes that eviction is to spare. A Request has one Reply; any may be repeated."""

from memserve.core.ids import PinId
from memserve.wire.identity import Namespace
from memserve.wire.messages.base import Message, Pinned


class PinRequest(Message, frozen=True):
    """Have eviction spare what this pool has indexed of the whole blocks of these tokens."""

    tokens: bytes
    """Little-endian int32."""
    namespace: Namespace = b""


class PinReply(Message, frozen=True):
    pinned: Pinned
    """With 0 blocks nothing was indexed, and nothing is pinned."""


class UnpinRequest(Message, frozen=True):
    pin: PinId


class UnpinReply(Message, frozen=True):
    was_pinned: bool


class PinsRequest(Message, frozen=True):
    """Which pins are there?"""


class PinsReply(Message, frozen=True):
    pins: tuple[Pinned, ...]
    """The oldest first."""

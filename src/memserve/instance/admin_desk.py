"""What an operator may ask of this pool through its agent: answered on a thread, since memory takes its time.

Owns no state of its own. Whoever reaches the agent may ask, introduced or not: a gateway has no pool to introduce.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from memserve.core.errors import InstanceUnavailable
from memserve.instance.core import PoolCore
from memserve.instance.data_paths import DataPaths
from memserve.instance.pool_pins import PoolPins
from memserve.instance.resizing import Resizing
from memserve.transfer.limits import check_names, num_tokens
from memserve.wire.messages import (
    PathsReply,
    PathsRequest,
    PeerInfo,
    PinReply,
    PinRequest,
    PinsReply,
    PinsRequest,
    ResizeReply,
    ResizeRequest,
    UnpinReply,
    UnpinRequest,
)


class AdminDesk:
    """Lives in the agent's event loop."""

    def __init__(self, *, core: PoolCore, local: Callable[[], PeerInfo], paths: DataPaths) -> None:
        self._core = core
        self._paths = paths
        self._local = local
        self.resizing = Resizing(core)
        self._pins = PoolPins(core)
        self.answers: dict[type, Callable[[Any], object]] = {
            PinRequest: self.pin,
            UnpinRequest: self.unpin,
            PinsRequest: self.pins,
        }
        """What is answered at once."""

    def pin(self, message: PinRequest) -> PinReply:
        """Raises QuotaExceeded, InvalidTokens."""
        check_names(message.namespace)
        num_tokens(message.tokens)
        return PinReply(pinned=self._pins.pin(message.tokens, namespace=message.namespace))

    def unpin(self, message: UnpinRequest) -> UnpinReply:
        return UnpinReply(was_pinned=self._pins.unpin(message.pin))

    def pins(self, _: PinsRequest) -> PinsReply:
        return PinsReply(pins=tuple(self._pins))

    async def resize(self, message: ResizeRequest) -> ResizeReply:
        """Raises what Resizing raises, InstanceUnavailable for another incarnation."""
        local = self._local()
        if (message.instance, message.incarnation) != (local.instance, local.incarnation):
            raise InstanceUnavailable(
                f"{message.instance}/{message.incarnation} is gone: this is {local.instance}/{local.incarnation}"
            )
        before, after = await asyncio.to_thread(self.resizing.resize, message.num_bytes)
        return ResizeReply(block_bytes=self._core.memory.block_bytes, before=before, after=after)

    async def paths(self, message: PathsRequest) -> PathsReply:
        """Mapping a peer's memory is tried, which may take a moment."""
        check_names(*(peer.instance for peer in message.peers), b"")
        return PathsReply(paths=await asyncio.to_thread(lambda: tuple(map(self._paths.describe, message.peers))))

    def __repr__(self) -> str:
        return f"AdminDesk({self.resizing})"

"""What an operator may ask of this pool through its agent: answered on a thread, since memory takes its time.

Owns no state of its own. Whoever reaches the agent may ask, introduced or not: a gateway has no pool to introduce.
"""

import asyncio
from collections.abc import Callable

from memserve.core.errors import InstanceUnavailable
from memserve.instance.core import PoolCore
from memserve.instance.resizing import Resizing
from memserve.wire.messages import PeerInfo, ResizeReply, ResizeRequest


class AdminDesk:
    """Lives in the agent's event loop."""

    def __init__(self, *, core: PoolCore, local: Callable[[], PeerInfo]) -> None:
        self._core = core
        self._local = local
        self.resizing = Resizing(core)

    async def resize(self, message: ResizeRequest) -> ResizeReply:
        """Raises what Resizing raises, InstanceUnavailable for another incarnation."""
        local = self._local()
        if (message.instance, message.incarnation) != (local.instance, local.incarnation):
            raise InstanceUnavailable(
                f"{message.instance}/{message.incarnation} is gone: this is {local.instance}/{local.incarnation}"
            )
        before, after = await asyncio.to_thread(self.resizing.resize, message.num_bytes)
        return ResizeReply(block_bytes=self._core.memory.block_bytes, before=before, after=after)

    def __repr__(self) -> str:
        return f"AdminDesk({self.resizing})"

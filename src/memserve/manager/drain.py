"""One instance on its way out: it finishes what it has, hands its cache on, and goes.

Owns the order of these steps and their deadlines. Begins when membership has agreed, so that nothing new comes.

    its requests end ──> its cache goes to the heirs ──> told to go ──> out of the view
"""

import asyncio
import logging
from collections.abc import Callable, Iterator

from memserve.cluster.view import ClusterView, InstanceView
from memserve.core.enums import Role, Tier
from memserve.core.errors import InstanceUnavailable, MemserveError, ProtocolError
from memserve.core.ids import InstanceId
from memserve.manager.manager import ClusterManager
from memserve.rpc.channel import RpcClient
from memserve.wire.messages import HandOnReply, HandOnRequest, Heir, PeerMessage

FINISH_S = 600.0
"""Requests that last longer end with their instance: as long as the longest request may live."""
HAND_ON_S = 120.0
"""What has not gone over by then is computed again when it is asked for."""
_GO_S = 30.0
_QUIET_S = 1.5
"""Longer than the time between two heartbeats: an instance that is idle for so long has told it."""
_POLL_S = 0.2
_CALL_S = 5.0
_log = logging.getLogger(__name__)


class Drain:
    """Of one incarnation; `run` once."""

    def __init__(
        self,
        instance: InstanceView,
        *,
        manager: ClusterManager,
        in_flight: Callable[[InstanceId], int],
        tell: Callable[[str], None],
    ) -> None:
        """`in_flight` says how many requests are on their way to or at the instance, `tell` hears how far it is."""
        self._instance = instance
        self._name = instance.instance
        self._manager = manager
        self._in_flight = in_flight
        self._tell = tell

    async def run(self) -> str:
        """How it ended, for a person. An instance that dies on the way is gone, too."""
        await self._finish()
        handed_on = await self._hand_on()
        gone = await self._go()
        return f"{gone}; {handed_on}"

    def _present(self) -> InstanceView | None:
        found = self._manager.view.find(self._name)
        return found if found is not None and found.incarnation == self._instance.incarnation else None

    async def _finish(self) -> None:
        """Until nothing is asked of it any more, by the gateway's books and by its own."""
        loop = asyncio.get_running_loop()
        end, quiet_since = loop.time() + FINISH_S, loop.time()
        while (present := self._present()) is not None and loop.time() < end:
            load = present.load
            count = max(self._in_flight(self._name), load.num_running + load.num_waiting)
            if count:
                quiet_since = loop.time()
                self._tell(f"finishing {count} requests")
            elif loop.time() - quiet_since > _QUIET_S:
                return
            await asyncio.sleep(_POLL_S)

    async def _hand_on(self) -> str:
        heirs = tuple(heirs_of(self._instance, self._manager.view))
        if self._present() is None or not heirs:
            return "nobody was there to take its cache over"
        peer = self._instance.peer
        request = HandOnRequest(instance=peer.instance, incarnation=peer.incarnation, heirs=heirs)
        names = ", ".join(heir.peer.instance for heir in heirs)
        client: RpcClient[object] = RpcClient(peer.endpoint, PeerMessage, secret=self._manager.secret)
        try:
            async with asyncio.timeout(HAND_ON_S):
                return await self._until_handed_on(client, request, names)
        except TimeoutError:
            return f"handing its cache on was given up after {HAND_ON_S:g} s"
        except MemserveError as error:
            _log.warning("%s does not hand its cache on: %s", self._name, error)
            return f"its cache was not handed on: {error}"
        finally:
            await client.close()

    async def _until_handed_on(self, client: RpcClient[object], request: HandOnRequest, names: str) -> str:
        while True:
            reply = await client.call(request, deadline_s=_CALL_S)
            if not isinstance(reply, HandOnReply):
                raise ProtocolError(f"{self._name} answered HandOnRequest with {type(reply).__name__}")
            counts = f"{reply.num_prompts_done} of {reply.num_prompts} prompts, {reply.num_tokens} tokens"
            if reply.is_done:
                lost = f", {reply.num_failed} found no room" if reply.num_failed else ""
                return f"handed on to {names}: {counts}{lost}"
            self._tell(f"handing its cache on to {names}: {counts}")
            await asyncio.sleep(_POLL_S)

    async def _go(self) -> str:
        await self._manager.dismiss(self._name)
        if self._name in self._manager.launcher.specs:
            self._tell("stopping it")
            await self._manager.launcher.stop(self._name)
            self._manager.left(self._instance.instance, self._instance.incarnation)
            return "it is stopped"
        self._tell("waiting for it to leave")
        try:
            async with asyncio.timeout(_GO_S):
                while self._present() is not None:
                    await self._manager.wait_change()
        except TimeoutError:
            raise InstanceUnavailable(
                f"{self._name} has nothing to do any more but did not leave within {_GO_S:g} s: stop its process"
            ) from None
        return "it has left"

    def __repr__(self) -> str:
        return f"Drain({self._name})"


def heirs_of(instance: InstanceView, view: ClusterView) -> Iterator[Heir]:
    """Who of the same role, or memory instance, may take its cache over, and about how much of it.

    What a memory instance holds may go to anybody: it was theirs. An heir gives half of what it has cached for
    it: what was used last here is worth more than what was not used for longest there.
    """
    block_size = instance.peer.identity.block_size
    roles = () if instance.role is Role.MEMORY else (instance.role, Role.MEMORY)
    for other in view.active(*roles):
        if other.instance != instance.instance:
            yield Heir(peer=other.peer, max_tokens=_room_blocks(other) * block_size)


def _room_blocks(heir: InstanceView) -> int:
    """One that has just come has not told what it holds: nothing, most likely."""
    dram = next((tier for tier in heir.load.pool if tier.tier is Tier.DRAM), None)
    if dram is not None:
        return dram.num_free + dram.num_cached // 2
    return heir.peer.arena.num_blocks if heir.peer.arena is not None else 0

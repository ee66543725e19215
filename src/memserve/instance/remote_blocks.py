"""Blocks that this pool holds in a peer's memory: asked for, kept alive by the links, given back.

Called from the application's threads; waits for the peer, with a deadline. Never touches bytes.
"""

from functools import partial

from memserve.core.enums import Tier
from memserve.core.errors import InvalidBlocks
from memserve.instance.agent import Agent
from memserve.instance.peer_links import PeerLinks
from memserve.wire.messages import AckReply, AllocReply, AllocRequest, BlockList, FreeRequest, PeerInfo

CONTROL_DEADLINE_S = 5.0
REMOTE_TTL_S = 60.0


class RemoteBlocks:
    """The peer's side of alloc_mem and free_mem."""

    def __init__(self, *, agent: Agent, links: PeerLinks) -> None:
        self._agent = agent
        self._links = links

    def allocate(self, num_blocks: int, *, tier: Tier, on: PeerInfo, local: PeerInfo) -> BlockList:
        """In the name of `local`. Raises PoolExhausted, InstanceUnavailable."""
        request = AllocRequest(
            num_blocks=num_blocks,
            tier=tier,
            owner=local.instance,
            incarnation=local.incarnation,
            ttl_s=REMOTE_TTL_S,
        )
        reply = self._agent.wait(self._links.call(on, request, AllocReply, deadline_s=CONTROL_DEADLINE_S))
        self._agent.call_soon(partial(self._links.mark_holding, on))
        return BlockList(instance=on.instance, incarnation=on.incarnation, blocks=reply.blocks)

    def free(self, addresses: BlockList) -> None:
        """Raises InvalidBlocks and then frees none."""
        self._agent.wait(self._free(addresses))

    async def _free(self, addresses: BlockList) -> None:
        peer = self._links.find(addresses.instance)
        if peer.incarnation != addresses.incarnation:
            raise InvalidBlocks(f"the blocks went with {addresses.instance}/{addresses.incarnation}")
        await self._links.call(peer, FreeRequest(blocks=addresses.blocks), AckReply, deadline_s=CONTROL_DEADLINE_S)

    def __repr__(self) -> str:
        return f"RemoteBlocks({self._links})"

"""An operator's requests to the agents of the instances' pools. Owns the connections; decides nothing.

RpcPools() -> asking -> close
"""

from typing import TypeVar

from memserve.core.errors import ProtocolError
from memserve.core.ids import PinId
from memserve.rpc.channel import RpcClient
from memserve.security.secret import ClusterSecret
from memserve.wire.identity import Namespace
from memserve.wire.messages import (
    PathsReply,
    PathsRequest,
    PeerInfo,
    PeerMessage,
    PeerPath,
    Pinned,
    PinReply,
    PinRequest,
    PinsReply,
    PinsRequest,
    ResizeReply,
    ResizeRequest,
    UnpinReply,
    UnpinRequest,
)

R = TypeVar("R")

_DEADLINE_S = 5.0
_PATHS_DEADLINE_S = 2.0
"""Somebody looks at a terminal meanwhile."""
_RESIZE_DEADLINE_S = 60.0
"""Allocating shared memory takes a second for a few gigabytes; evicting for it is quick."""


class RpcPools:
    """PoolControl over the instances' control channel; one connection an endpoint."""

    def __init__(self, secret: ClusterSecret | None = None) -> None:
        self._secret = secret
        self._clients: dict[str, RpcClient[PeerMessage]] = {}

    async def resize(self, peer: PeerInfo, *, num_bytes: int) -> ResizeReply:
        request = ResizeRequest(instance=peer.instance, incarnation=peer.incarnation, num_bytes=num_bytes)
        return await self._ask(peer, request, ResizeReply, deadline_s=_RESIZE_DEADLINE_S)

    async def pin(self, peer: PeerInfo, *, tokens: bytes, namespace: Namespace) -> Pinned:
        request = PinRequest(tokens=tokens, namespace=namespace)
        return (await self._ask(peer, request, PinReply, deadline_s=_DEADLINE_S)).pinned

    async def unpin(self, peer: PeerInfo, *, pin: PinId) -> bool:
        return (await self._ask(peer, UnpinRequest(pin=pin), UnpinReply, deadline_s=_DEADLINE_S)).was_pinned

    async def pins(self, peer: PeerInfo) -> tuple[Pinned, ...]:
        return (await self._ask(peer, PinsRequest(), PinsReply, deadline_s=_DEADLINE_S)).pins

    async def paths(self, peer: PeerInfo, *, others: tuple[PeerInfo, ...]) -> tuple[PeerPath, ...]:
        return (await self._ask(peer, PathsRequest(peers=others), PathsReply, deadline_s=_PATHS_DEADLINE_S)).paths

    async def close(self) -> None:
        """What is under way fails. Idempotent."""
        clients, self._clients = list(self._clients.values()), {}
        for client in clients:
            await client.close()

    async def _ask(self, peer: PeerInfo, message: PeerMessage, reply: type[R], *, deadline_s: float) -> R:
        client = self._clients.get(peer.endpoint)
        if client is None:
            client = self._clients[peer.endpoint] = RpcClient(peer.endpoint, PeerMessage, secret=self._secret)
        answer = await client.call(message, deadline_s=deadline_s)
        if not isinstance(answer, reply):
            raise ProtocolError(f"{peer.instance} answered {type(answer).__name__} instead of {reply.__name__}")
        return answer

    def __repr__(self) -> str:
        return f"RpcPools({len(self._clients)} connections)"

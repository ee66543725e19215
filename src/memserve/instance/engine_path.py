"""What an inference engine needs of its pool to hand KV over: room at peers before it is computed, and what came.

Never waits: what a peer has to answer is a future with a deadline. Thread-safe.

    sender:    reserve -> (write into the room) -> commit | abort
    receiver:  handoff (pending, ready) -> finish_handoff | release_request
"""

from concurrent.futures import Future

from memserve.core.ids import RequestId, TransferId
from memserve.instance.aborts import Aborts
from memserve.instance.agent import Agent
from memserve.instance.core import PoolCore
from memserve.instance.peer_links import PeerLinks
from memserve.instance.remote_blocks import CONTROL_DEADLINE_S
from memserve.transfer.handoff import Handoff
from memserve.wire.messages import (
    AckReply,
    CommitRequest,
    PeerInfo,
    ReserveReply,
    ReserveRequest,
)


class EnginePath:
    """Of one pool."""

    def __init__(self, *, core: PoolCore, agent: Agent, links: PeerLinks, aborts: Aborts) -> None:
        self._core = core
        self._agent = agent
        self._links = links
        self._aborts = aborts

    def reserve(self, to: PeerInfo, request: ReserveRequest) -> "Future[ReserveReply]":
        """Ask a peer for room. Stop writing into it `ttl_s` after this call, whatever happens."""
        return self._agent.submit(self._links.call(to, request, ReserveReply, deadline_s=CONTROL_DEADLINE_S))

    def commit(self, to: PeerInfo, request: CommitRequest) -> "Future[None]":
        """All reserved blocks are written: publish them."""
        return self._agent.submit(self._acknowledged(to, request))

    def abort(self, to: PeerInfo, transfer: TransferId) -> "Future[None]":
        """Give a reservation up, after the last write into it. A peer that does not answer is told again later."""
        return self._agent.submit(self._aborts.send(to, transfer))

    def claim(self, request: RequestId) -> None:
        """The request that KV was handed over for is here, and will ask for it; idempotent."""
        with self._core.lock:
            self._core.sessions.reservations.claim(request)

    def handoff(self, request: RequestId, tokens: bytes) -> Handoff:
        """What peers have sent here for exactly these tokens of this request."""
        with self._core.lock:
            return self._core.sessions.reservations.handoff(request, tokens)

    def finish_handoff(self, request: RequestId, tokens: bytes) -> None:
        """The blocks are loaded: leases and the tail are given back; idempotent."""
        with self._core.lock:
            self._core.sessions.reservations.finish_handoff(request, tokens)

    def release_request(self, request: RequestId) -> None:
        """Nobody will ask for what is held for this request; idempotent."""
        with self._core.lock:
            self._core.sessions.reservations.release(request)

    async def _acknowledged(self, to: PeerInfo, message: object) -> None:
        await self._links.call(to, message, AckReply, deadline_s=CONTROL_DEADLINE_S)

    def __repr__(self) -> str:
        return f"EnginePath({self._links})"

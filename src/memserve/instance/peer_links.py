"""Connections to other instances' agents: one per endpoint, introduced by a handshake before its first use.

Lives in the agent's event loop, but for calls by a line, which any other thread makes for itself; not thread-safe
otherwise. At most `max_links` connections, the least recently used
one is closed. A link whose peer did not answer, or answered as somebody else, introduces itself again
before its next call.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from memserve.core.errors import InstanceUnavailable, LineUnavailable, NotIntroduced, ProtocolError
from memserve.core.ids import InstanceId
from memserve.rpc.channel import RpcClient
from memserve.rpc.line import LineClient, line_name
from memserve.security.secret import ClusterSecret
from memserve.wire.messages import HelloReply, HelloRequest, PeerInfo, PeerMessage

R = TypeVar("R")

HELLO_DEADLINE_S = 5.0


class _Link:
    """One connection; `peer` is None until it is introduced."""

    def __init__(self, endpoint: str, secret: ClusterSecret | None) -> None:
        self.client: RpcClient[object] = RpcClient(endpoint, PeerMessage, secret=secret)
        self.introducing: asyncio.Task[PeerInfo] | None = None
        self.peer: PeerInfo | None = None


class PeerLinks:
    """Calls to peers, each with a deadline."""

    def __init__(
        self, local: Callable[[], PeerInfo], *, max_links: int = 256, secret: ClusterSecret | None = None
    ) -> None:
        self._secret = secret
        self._local = local
        self._max_links = max_links
        self._links: OrderedDict[str, _Link] = OrderedDict()
        self._num_calls: Counter[str] = Counter()
        self._holding: set[str] = set()
        self._lines = LineClient(PeerMessage)

    def num_calls(self, endpoint: str) -> int:
        """Calls after the handshake."""
        return self._num_calls[endpoint]

    def find(self, instance: InstanceId) -> PeerInfo:
        """An introduced peer, its latest life. Raises InstanceUnavailable when there is none of that name."""
        peers = [link.peer for link in self._links.values() if link.peer is not None and link.peer.instance == instance]
        if peers:
            return max(peers, key=lambda peer: peer.incarnation)
        raise InstanceUnavailable(f"not connected to {instance}: call connect with its endpoint first")

    async def connect(self, endpoint: str) -> PeerInfo:
        """Introduce this instance. Raises IdentityMismatch, InstanceUnavailable, DeadlineExceeded."""
        return await self._introduce(await self._link(endpoint))

    async def call(self, to: PeerInfo, message: object, reply: type[R], *, deadline_s: float) -> R:
        """Ask `to`, this very incarnation of it. Raises what it raises, besides the errors of `connect`."""
        link = await self._link(to.endpoint)
        try:
            try:
                answer = await self._ask(link, to, message, deadline_s)
            except NotIntroduced:  # it took this instance for dead, or forgot it among many: it has done nothing yet
                link.peer = None
                answer = await self._ask(link, to, message, deadline_s)
        except InstanceUnavailable:
            link.peer = None
            raise
        if not isinstance(answer, reply):
            raise ProtocolError(f"{to.instance} answered {type(answer).__name__} instead of {reply.__name__}")
        return answer

    def call_by_line(self, to: PeerInfo, message: object, reply: type[R], *, deadline_s: float) -> R:
        """As `call`, from any thread but the loop's, to a peer whose memory can be mapped; waits.

        Raises LineUnavailable or NotIntroduced when it has to be `call` instead: nothing has been done then.
        """
        if to.arena is None:
            raise LineUnavailable(f"{to.instance} shows its memory to nobody, so no line leads there")
        answer = self._lines.call(line_name(to.arena), message, deadline_s=deadline_s)
        self._num_calls[to.endpoint] += 1
        if not isinstance(answer, reply):
            raise ProtocolError(f"{to.instance} answered {type(answer).__name__} instead of {reply.__name__}")
        return answer

    async def _ask(self, link: _Link, to: PeerInfo, message: object, deadline_s: float) -> object:
        peer = link.peer or await self._introduce(link)
        if (peer.instance, peer.incarnation) != (to.instance, to.incarnation):
            raise InstanceUnavailable(
                f"{to.instance}/{to.incarnation} is gone: {to.endpoint} is now {peer.instance}/{peer.incarnation}"
            )
        self._num_calls[to.endpoint] += 1
        return await link.client.call(message, deadline_s=deadline_s)

    def mark_holding(self, to: PeerInfo) -> None:
        """This instance holds blocks there: `refresh` keeps them."""
        self._holding.add(to.endpoint)

    def is_holding(self, to: PeerInfo) -> bool:
        """Whether that is known already; from any thread."""
        return to.endpoint in self._holding

    async def refresh(self) -> None:
        """Tell peers that hold blocks for this instance that it lives; forget those that do not answer."""
        for endpoint in tuple(self._holding):
            try:
                await self._introduce(await self._link(endpoint))
            except InstanceUnavailable:
                self._holding.discard(endpoint)

    async def close(self) -> None:
        self._lines.close()
        links = tuple(self._links.values())
        self._links.clear()
        for link in links:
            await link.client.close()

    async def _link(self, endpoint: str) -> _Link:
        link = self._links.get(endpoint)
        if link is None:
            link = self._links[endpoint] = _Link(endpoint, self._secret)
        self._links.move_to_end(endpoint)
        if len(self._links) > self._max_links:
            _, oldest = self._links.popitem(last=False)
            await oldest.client.close()
        return link

    async def _introduce(self, link: _Link) -> PeerInfo:
        """All who wait for an introduction wait for the same one: a peer that is gone costs one deadline, not many."""
        task = link.introducing
        if task is None:
            task = link.introducing = asyncio.create_task(self._hello(link))
            task.add_done_callback(partial(_introduced, link))
        return await asyncio.shield(task)

    async def _hello(self, link: _Link) -> PeerInfo:
        local = self._local()
        answer = await link.client.call(HelloRequest(peer=local), deadline_s=HELLO_DEADLINE_S)
        if not isinstance(answer, HelloReply):
            raise ProtocolError(f"the handshake was answered with {type(answer).__name__}")
        local.identity.check_same(answer.peer.identity, answer.peer.instance)
        link.peer = answer.peer
        return answer.peer

    def __repr__(self) -> str:
        return f"PeerLinks({len(self._links)} connections)"


def _introduced(link: _Link, task: "asyncio.Task[PeerInfo]") -> None:
    """The next one introduces itself anew; an error is read here, too, as those who waited may have given up."""
    link.introducing = None
    if not task.cancelled():
        task.exception()

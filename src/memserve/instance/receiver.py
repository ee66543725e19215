"""What an instance answers its peers: each request to the ledger and the sessions, bytes through a transport.

Lives in the agent's event loop, but for the transfers that come by its line, and takes the pool's lock for
decisions only; bytes are copied on other threads. Who names blocks introduces itself first; a newer incarnation of
it, or its death, ends what the old one holds.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec

from memserve.core.errors import InstanceUnavailable, NotIntroduced, ProtocolError
from memserve.core.ids import Incarnation, InstanceId
from memserve.instance.admin_desk import AdminDesk
from memserve.instance.core import PoolCore
from memserve.instance.data_paths import DataPaths
from memserve.instance.event_publisher import EventPublisher
from memserve.instance.hand_on import HandOn
from memserve.instance.inbox import Inbox
from memserve.instance.incoming_copies import IncomingCopies
from memserve.instance.peer_links import PeerLinks
from memserve.instance.puller import Puller
from memserve.instance.self_test import SelfTest
from memserve.rpc.line import LineServer, line_name
from memserve.storage.shared_memory import owner_lives
from memserve.transfer.limits import check_names
from memserve.transfer.record import peer_owner
from memserve.wire.messages import (
    AbortRequest,
    AckReply,
    AllocReply,
    AllocRequest,
    ArenaRef,
    CommitRequest,
    EventsRequest,
    FreeRequest,
    HandOnRequest,
    HelloReply,
    HelloRequest,
    OfferRequest,
    PathsRequest,
    PeerInfo,
    PeerMessage,
    ProbeRequest,
    PullReply,
    PullRequest,
    ReleaseRequest,
    ReserveReply,
    ReserveRequest,
    ResizeRequest,
    SelfTestRequest,
    SnapshotRequest,
    StatsReply,
    StatsRequest,
    TransferReply,
    TransferRequest,
)

T = TypeVar("T")

_MAX_PEERS = 4096


class Receiver:
    """Handler of the agent's RPC server."""

    def __init__(
        self,
        *,
        core: PoolCore,
        local: Callable[[], PeerInfo],
        paths: DataPaths,
        inbox: Inbox,
        puller: Callable[[], Puller],
        links: PeerLinks,
    ) -> None:
        hand_on = HandOn(core=core, links=links, puller=puller, local=local)
        self_test = SelfTest(core=core, links=links, paths=paths, local=local)
        self.publisher = EventPublisher(core=core, local=local)
        self.admin = AdminDesk(core=core, local=local, paths=paths)
        self._core = core
        self._puller = puller
        self._local = local
        self._paths = paths
        self._introduced: OrderedDict[bytes, PeerInfo] = OrderedDict()
        self._newest: OrderedDict[InstanceId, PeerInfo] = OrderedDict()
        self._copies = IncomingCopies(core=core, local=local, paths=paths, inbox=inbox, is_here=self._is_newest)
        self._line = LineServer(self._answer_line, PeerMessage)
        self._answers: dict[type, Callable[[Any, PeerInfo], Any]] = {
            AllocRequest: self._allocate,
            FreeRequest: self._free,
            ReserveRequest: self._reserve,
        }
        self._slow_answers: dict[type, Callable[[Any, PeerInfo], Awaitable[Any]]] = {
            TransferRequest: self._transfer,
            PullRequest: self._pull,
            OfferRequest: hand_on.take,
            ProbeRequest: self_test.answer,
        }
        self._waited_for: dict[type, Callable[[Any], Awaitable[Any]]] = {
            EventsRequest: self.publisher.events,
            ResizeRequest: self.admin.resize,
            PathsRequest: self.admin.paths,
            HandOnRequest: hand_on.hand_on,
            SelfTestRequest: self_test.run,
        }
        self._known_to_all: dict[type, Callable[[Any], object]] = {
            StatsRequest: self._stats,
            SnapshotRequest: self.publisher.snapshot,
            **self.admin.answers,
        }
        self._open_answers: dict[type, Callable[[Any, str | None], AckReply]] = {
            CommitRequest: self._commit,
            AbortRequest: self._abort,
            ReleaseRequest: self._release,
        }

    async def handle(self, message: object, sender: bytes) -> object:
        """One request, one reply. Raises the typed error that the peer is to see."""
        if isinstance(message, HelloRequest):
            return self._hello(message, sender)
        if type(message) in self._waited_for:
            return await self._waited_for[type(message)](message)
        if type(message) in self._known_to_all:
            return self._known_to_all[type(message)](message)
        if type(message) in self._open_answers:
            return self._answer_openly(message, sender)
        peer = self._known(sender)
        if type(message) in self._slow_answers:
            return await self._slow_answers[type(message)](message, peer)
        answer = self._answers.get(type(message))
        if answer is None:
            raise ProtocolError(f"{type(message).__name__} is not a request")
        with self._core.lock:
            return answer(message, peer)

    def peer_left(self, instance: InstanceId, incarnation: Incarnation) -> None:
        """Free what this life of a peer holds here; safe for peers that never came."""
        peer = self._newest.get(instance)
        if peer is not None and peer.incarnation == incarnation:
            gone = peer.arena is None or not owner_lives(peer.arena)
            del self._newest[instance]
        else:
            gone = False
        self._paths.forget(instance, incarnation)
        with self._core.lock:
            self._core.sessions.peer_left(instance, incarnation, process_gone=gone)

    def listen(self, arena: ArenaRef) -> None:
        """Take transfers of processes that map this memory without a detour through the event loop."""
        self._line.start(line_name(arena))

    def close(self) -> None:
        """Fail copies under way and wait for their ends; nothing may be handled any more."""
        self._paths.close()
        self._line.close()
        self._copies.close()

    def _hello(self, message: HelloRequest, sender: bytes) -> HelloReply:
        local, peer = self._local(), message.peer
        check_names(
            peer.instance, peer.endpoint, peer.data, *((peer.arena.host, peer.arena.path) if peer.arena else ())
        )
        local.identity.check_same(peer.identity, peer.instance)
        newest = self._newest.get(peer.instance)
        if newest is not None and newest.incarnation > peer.incarnation:
            raise InstanceUnavailable(f"{peer.instance}/{peer.incarnation} was replaced by /{newest.incarnation}")
        if newest is not None and newest.incarnation < peer.incarnation:
            self.peer_left(newest.instance, newest.incarnation)
        _remember(self._newest, peer.instance, peer)
        _remember(self._introduced, sender, peer)
        with self._core.lock:
            self._core.sessions.copies.extend(peer_owner(peer.instance, peer.incarnation))
        return HelloReply(peer=local)

    def _answer_openly(self, message: object, sender: bytes) -> AckReply:
        """For what an engine's worker or a gateway may send, too: they name a transfer or a request, not blocks."""
        peer = self._introduced.get(sender)
        name = peer_owner(peer.instance, peer.incarnation) if peer else None
        with self._core.lock:
            return self._open_answers[type(message)](message, name)

    def _known(self, sender: bytes) -> PeerInfo:
        peer = self._introduced.get(sender)
        if peer is None or self._newest.get(peer.instance) != peer:
            raise NotIntroduced("this connection is not introduced, or by an incarnation that left: say hello")
        self._introduced.move_to_end(sender)
        return peer

    def _stats(self, _: StatsRequest) -> StatsReply:
        with self._core.lock:
            sessions = self._core.sessions.stats()
            return StatsReply(
                tiers=self._core.ledger.stats(),
                num_leases=self._core.ledger.num_leases,
                num_transfers_open=sessions.num_open,
                num_handoffs=sessions.num_handoffs,
            )

    def _allocate(self, message: AllocRequest, peer: PeerInfo) -> AllocReply:
        _check_is(peer, message.owner, message.incarnation)
        return self._core.sessions.copies.allocate(message)

    def _free(self, message: FreeRequest, peer: PeerInfo) -> AckReply:
        self._core.sessions.copies.free(message.blocks, peer_owner(peer.instance, peer.incarnation))
        return AckReply()

    def _reserve(self, message: ReserveRequest, peer: PeerInfo) -> ReserveReply:
        _check_is(peer, message.sender, message.incarnation)
        reply = self._core.sessions.reservations.reserve(message)
        owner = peer_owner(message.sender, message.incarnation)
        return msgspec.structs.replace(reply, ticket=self._paths.door.ticket(message.transfer, owner))

    def _commit(self, message: CommitRequest, sender: str | None) -> AckReply:
        self._core.sessions.reservations.commit(message, sender)
        return AckReply()

    def _abort(self, message: AbortRequest, sender: str | None) -> AckReply:
        self._core.sessions.reservations.abort(message.transfer, sender)
        return AckReply()

    def _release(self, message: ReleaseRequest, _sender: str | None) -> AckReply:
        self._core.sessions.reservations.release(message.request)
        return AckReply()

    async def _pull(self, message: PullRequest, peer: PeerInfo) -> PullReply:
        return await self._puller().answer(message, peer)

    async def _transfer(self, message: TransferRequest, peer: PeerInfo) -> TransferReply:
        _check_is(peer, message.source.instance, message.source.incarnation)
        return await asyncio.shield(asyncio.wrap_future(self._copies.submit(message, peer)))

    def _answer_line(self, message: object) -> TransferReply:
        """A transfer from this host, on the line's thread: its sender has said hello on a control connection."""
        if not isinstance(message, TransferRequest):
            raise ProtocolError(f"{type(message).__name__} does not come by a line: only transfers do")
        peer = self._newest.get(message.source.instance)
        if peer is None or peer.incarnation != message.source.incarnation:
            raise NotIntroduced(f"{message.source.instance} has not introduced itself, or has left: say hello")
        return self._copies.receive(message, peer)

    def _is_newest(self, peer: PeerInfo) -> bool:
        return self._newest.get(peer.instance) == peer

    def __repr__(self) -> str:
        return f"Receiver({len(self._newest)} peers, {self._copies}, {self._line})"


def _check_is(peer: PeerInfo, instance: InstanceId, incarnation: Incarnation) -> None:
    if (peer.instance, peer.incarnation) != (instance, incarnation):
        raise ProtocolError(f"{peer.instance}/{peer.incarnation} speaks for {instance}/{incarnation}: not allowed")


def _remember(known: "OrderedDict[T, PeerInfo]", key: T, peer: PeerInfo) -> None:
    known[key] = peer
    known.move_to_end(key)
    if len(known) > _MAX_PEERS:
        known.popitem(last=False)

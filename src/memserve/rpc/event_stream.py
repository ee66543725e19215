"""Following one instance's events: long polls over the RPC channel, a snapshot wherever the thread is lost.

Owns the connection and the order of requests. What the events mean, and how far they have come, is the
sink's to say: this asks for what follows the position that it is told.

    position None ──> snapshot, part by part ──> position ──> events after it ──> position ──> ...
         ^                                                        │ a gap that the instance can no longer fill
         └────────────────────────────────────────────────────────┘

Nothing is lost silently: each request names the last event that was applied, so whatever did not arrive is
asked for again. One request at a time, each with a deadline; a fault is waited out and the same asked again.
"""

import asyncio
import logging
from typing import Protocol, TypeVar

from memserve.core.clock import Clock
from memserve.core.errors import MemserveError, ProtocolError
from memserve.rpc.channel import RpcClient
from memserve.security.secret import ClusterSecret
from memserve.wire.events import Applied, EventBatch, IndexEvent, SnapshotPart
from memserve.wire.messages import (
    EventsReply,
    EventsRequest,
    PeerInfo,
    PeerMessage,
    SnapshotReply,
    SnapshotRequest,
)

R = TypeVar("R")

_MAX_WAIT_S = 1.0
_DEADLINE_S = 5.0
_RETRY_S = 0.5
_log = logging.getLogger(__name__)


class EventSink(Protocol):
    """Who wants to know. Both are called in the reader's event loop and must not block.

    After a fault, a batch without events says that nothing was heard, so that the sink can judge how long.
    """

    def apply(self, batch: EventBatch) -> Applied: ...
    def reset(self, part: SnapshotPart) -> Applied: ...


class EventReader:
    """Follows one incarnation for as long as `run` runs."""

    def __init__(
        self,
        peer: PeerInfo,
        sink: EventSink,
        *,
        clock: Clock,
        max_wait_s: float = _MAX_WAIT_S,
        deadline_s: float = _DEADLINE_S,
        retry_s: float = _RETRY_S,
        secret: ClusterSecret | None = None,
    ) -> None:
        """An answer may wait `max_wait_s` for events and takes `deadline_s` more; `retry_s` paces what failed."""
        self._peer = peer
        self._sink = sink
        self._clock = clock
        self._max_wait_s = max_wait_s
        self._deadline_s = max_wait_s + deadline_s
        self._retry_s = retry_s
        self._client: RpcClient[object] = RpcClient(peer.endpoint, PeerMessage, secret=secret)
        self._complained: set[str] = set()

    async def run(self) -> None:
        """Until cancelled."""
        position: int | None = None
        try:
            while True:
                try:
                    position = await self._go_on(position)
                except MemserveError as error:
                    self._complain("unreachable", f"events cannot be read: {error}; trying again")
                    position = None if position is None else self._hand_on((), as_of=None)
                    await asyncio.sleep(self._retry_s)
        finally:
            await self._client.close()

    async def _go_on(self, position: int | None) -> int | None:
        began = self._clock.now()
        reached = await self._start_anew() if position is None else await self._follow(position)
        if reached is None or reached == position:
            # Neither a confused instance nor a sink that knows it no longer may make this a busy loop.
            await asyncio.sleep(max(0.0, self._retry_s - (self._clock.now() - began)))
        return reached

    async def _follow(self, position: int) -> int | None:
        asked_at = self._clock.now()
        peer = self._peer
        request = EventsRequest(
            instance=peer.instance, incarnation=peer.incarnation, after_seq=position, max_wait_s=self._max_wait_s
        )
        reply = await self._ask(request, EventsReply)
        if reply.is_gap:
            return None
        is_all = reply.last_seq == (reply.events[-1].seq if reply.events else position)
        return self._hand_on(reply.events, as_of=asked_at if is_all else None)

    async def _start_anew(self) -> int | None:
        seq: int | None = None
        position = 0
        while True:
            reply = await self._ask(self._request_part(seq, position), SnapshotReply)
            part = SnapshotPart(
                instance=self._peer.instance,
                incarnation=self._peer.incarnation,
                seq=reply.seq,
                entries=reply.entries,
                is_first=seq is None,
                is_last=reply.next_position is None,
            )
            reached = self._applied(self._sink.reset(part))
            if reply.next_position is None:
                return reached
            if reply.next_position <= position:
                raise ProtocolError(f"{self._peer.instance} goes back from {position} to {reply.next_position}")
            seq, position = reply.seq, reply.next_position

    def _request_part(self, seq: int | None, position: int) -> SnapshotRequest:
        return SnapshotRequest(
            instance=self._peer.instance, incarnation=self._peer.incarnation, seq=seq, position=position
        )

    async def _ask(self, request: EventsRequest | SnapshotRequest, kind: type[R]) -> R:
        reply = await self._client.call(request, deadline_s=self._deadline_s)
        if not isinstance(reply, kind):
            raise ProtocolError(f"{self._peer.instance} answered {type(request).__name__} with {type(reply).__name__}")
        self._complained.discard("unreachable")
        return reply

    def _hand_on(self, events: tuple[IndexEvent, ...], *, as_of: float | None) -> int | None:
        peer = self._peer
        batch = EventBatch(instance=peer.instance, incarnation=peer.incarnation, events=events, as_of=as_of)
        return self._applied(self._sink.apply(batch))

    def _applied(self, applied: Applied) -> int | None:
        for reason, number in applied.discarded.items():
            self._complain(reason, f"{number} events discarded: {reason}; further ones are only counted")
        return applied.position

    def _complain(self, about: str, text: str) -> None:
        """Once for each reason."""
        if about not in self._complained:
            self._complained.add(about)
            _log.warning("%s/%s: %s", self._peer.instance, self._peer.incarnation, text)

    def __repr__(self) -> str:
        return f"EventReader({self._peer.instance}/{self._peer.incarnation})"

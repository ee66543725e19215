"""An instance's events, for whoever follows its index: the latest ones to be asked for again, and snapshots.

Owns the replay buffer and at most one snapshot, which all readers share for as long as its events can still
be continued. Lives in the agent's event loop and takes the pool's lock for moments only; freezing a snapshot
takes it for about a tenth of a microsecond a block. Never sends unasked, never waits for a reader.

Bounds: a reader that is further behind than the buffer reaches is told so and starts from a snapshot;
beyond MAX_WAITING readers at a time, further ones are refused.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable

from memserve.core.errors import InstanceUnavailable, ProtocolError
from memserve.core.ids import Incarnation, InstanceId
from memserve.instance.core import PoolCore
from memserve.pool.events import EventsLost, PoolEvent
from memserve.pool.snapshot import IndexSnapshot
from memserve.wire.events import IndexEvent
from memserve.wire.messages import EventsReply, EventsRequest, PeerInfo, SnapshotReply, SnapshotRequest

COLLECT_S = 0.05
"""How often the ledger is asked what happened: about the age at which an event is told."""
MAX_WAITING = 64
MAX_WAIT_S = 30.0
_REPLY_EVENTS = 512
_REPLY_BYTES = 1 << 20
_SNAPSHOT_KEPT_S = 30.0


class ReplayBuffer:
    """The latest events, without a hole; the oldest go when there are too many or their tokens take too much."""

    def __init__(self, *, max_events: int = 8192, max_bytes: int = 64 << 20) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._events: deque[IndexEvent] = deque()
        self._num_bytes = 0
        self.last_seq = 0
        """Of the latest event, 0 before the first."""

    def add(self, events: Iterable[PoolEvent]) -> None:
        for event in events:
            self.last_seq = event.seq
            if isinstance(event, EventsLost):
                self._events.clear()
                self._num_bytes = 0
            else:
                self._events.append(event)
                self._num_bytes += len(event.tokens)
        while self._events and (len(self._events) > self._max_events or self._num_bytes > self._max_bytes):
            self._num_bytes -= len(self._events.popleft().tokens)

    def reaches(self, seq: int) -> bool:
        """Whether all events after this one are here."""
        return self.last_seq - len(self._events) <= seq <= self.last_seq

    def after(self, seq: int, *, max_events: int, max_bytes: int) -> tuple[IndexEvent, ...]:
        """The next events, for a `seq` that is reached: at least one if there is any, else within the bounds."""
        found: list[IndexEvent] = []
        num_bytes = 0
        for place in range(len(self._events) - (self.last_seq - seq), len(self._events)):
            event = self._events[place]
            num_bytes += len(event.tokens)
            if found and (len(found) >= max_events or num_bytes > max_bytes):
                break
            found.append(event)
        return tuple(found)

    def __repr__(self) -> str:
        return f"ReplayBuffer({len(self._events)} events of {self._num_bytes} bytes up to {self.last_seq})"


class EventPublisher:
    """Answers the readers of one pool's events."""

    def __init__(self, *, core: PoolCore, local: Callable[[], PeerInfo], buffer: ReplayBuffer | None = None) -> None:
        self._core = core
        self._local = local
        self._buffer = buffer or ReplayBuffer()
        self._happened = asyncio.Event()
        self._num_waiting = 0
        self._snapshot: IndexSnapshot | None = None
        self._snapshot_used = 0.0

    async def tick(self) -> None:
        """Collect what happened, wake who waits for it, drop a snapshot that nobody reads any more."""
        self._collect()
        if self._snapshot is not None and self._core.clock.now() - self._snapshot_used > _SNAPSHOT_KEPT_S:
            self._snapshot = None

    async def events(self, message: EventsRequest) -> EventsReply:
        """The events after `after_seq`, after waiting for the first of them if need be.

        Raises InstanceUnavailable for another incarnation or when too many wait, ProtocolError.
        """
        self._check_is_me(message.instance, message.incarnation)
        if not 0 <= message.max_wait_s <= MAX_WAIT_S:
            raise ProtocolError(f"max_wait_s = {message.max_wait_s}: expected 0 to {MAX_WAIT_S:g} seconds")
        self._collect()
        if message.after_seq == self._buffer.last_seq:
            await self._wait(message.max_wait_s)
        if not self._buffer.reaches(message.after_seq):
            return EventsReply(last_seq=self._buffer.last_seq, is_gap=True)
        events = self._buffer.after(message.after_seq, max_events=_REPLY_EVENTS, max_bytes=_REPLY_BYTES)
        return EventsReply(last_seq=self._buffer.last_seq, events=events)

    def snapshot(self, message: SnapshotRequest) -> SnapshotReply:
        """A part of all that is indexed. Raises InstanceUnavailable when the snapshot asked for is gone."""
        self._check_is_me(message.instance, message.incarnation)
        snapshot = self._fresh_snapshot() if message.seq is None else self._snapshot
        if snapshot is None or message.seq not in (None, snapshot.seq):
            raise InstanceUnavailable(f"the snapshot after event {message.seq} is no longer kept: begin another")
        if not 0 <= message.position <= len(snapshot):
            raise ProtocolError(f"position {message.position} of a snapshot with {len(snapshot)} entries")
        self._snapshot_used = self._core.clock.now()
        entries = snapshot.entries(message.position, max_bytes=_REPLY_BYTES)
        end = message.position + len(entries)
        return SnapshotReply(seq=snapshot.seq, entries=entries, next_position=end if end < len(snapshot) else None)

    def _collect(self) -> None:
        with self._core.lock:
            taken = self._core.ledger.take_events()
        if taken:
            self._buffer.add(taken)
            self._happened.set()
            self._happened = asyncio.Event()

    async def _wait(self, seconds: float) -> None:
        if self._num_waiting >= MAX_WAITING:
            raise InstanceUnavailable(f"{self._num_waiting} readers wait for events already: try again later")
        self._num_waiting += 1
        try:
            async with asyncio.timeout(seconds):
                await self._happened.wait()
        except TimeoutError:
            self._collect()
        finally:
            self._num_waiting -= 1

    def _fresh_snapshot(self) -> IndexSnapshot:
        self._collect()
        if self._snapshot is None or not self._buffer.reaches(self._snapshot.seq):
            with self._core.lock:
                self._snapshot = self._core.ledger.snapshot()
        return self._snapshot

    def _check_is_me(self, instance: InstanceId, incarnation: Incarnation) -> None:
        local = self._local()
        if (instance, incarnation) != (local.instance, local.incarnation):
            raise InstanceUnavailable(
                f"{instance}/{incarnation} is gone: this is {local.instance}/{local.incarnation}; follow that one"
            )

    def __repr__(self) -> str:
        return f"EventPublisher({self._buffer}, {self._num_waiting} waiting)"

"""What happened to the index, as numbered facts for whoever keeps a picture of it elsewhere.

Owns the sequence and a bounded buffer. When nobody takes events and the bound is reached, the
buffer is dropped as a whole and replaced by EventsLost: a reader then clears its picture and
starts anew from what follows.
"""

from memserve.core.enums import Tier
from memserve.wire.events import BlocksEvicted, BlocksMoved, BlocksStored, IndexEvent, PoolFact
from memserve.wire.identity import Namespace

__all__ = ["BlocksEvicted", "BlocksMoved", "BlocksStored", "EventLog", "EventsLost", "PoolEvent"]

MAX_EVENTS = 4096
MAX_EVENT_BYTES = 64 << 20
"""Bound on the token bytes of all waiting events together."""


class EventsLost(PoolFact, frozen=True):
    """Everything up to and including `seq` that was not taken before is lost."""

    num_events: int


PoolEvent = IndexEvent | EventsLost


class EventLog:
    """Events that nobody has taken yet: at most 4096, with at most 64 MiB of tokens."""

    def __init__(self, *, max_events: int = MAX_EVENTS, max_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._events: list[PoolEvent] = []
        self._num_bytes = 0
        self._num_lost = 0
        self._seq = 0

    def __repr__(self) -> str:
        return f"EventLog({len(self._events)} waiting, {self._num_bytes} bytes, last seq {self._seq})"

    def stored(
        self, *, namespace: Namespace, tokens: bytes, num_blocks: int, tier: Tier, is_mirrored: bool = False
    ) -> None:
        event = BlocksStored(
            seq=self._next(),
            namespace=namespace,
            tokens=tokens,
            num_blocks=num_blocks,
            tier=tier,
            is_mirrored=is_mirrored,
        )
        self._add(event, tokens)

    def evicted(self, *, namespace: Namespace, tokens: bytes, num_blocks: int, is_mirrored: bool = False) -> None:
        event = BlocksEvicted(
            seq=self._next(), namespace=namespace, tokens=tokens, num_blocks=num_blocks, is_mirrored=is_mirrored
        )
        self._add(event, tokens)

    def moved(self, *, namespace: Namespace, tokens: bytes, num_blocks: int, source: Tier, target: Tier) -> None:
        seq = self._next()
        event = BlocksMoved(
            seq=seq, namespace=namespace, tokens=tokens, num_blocks=num_blocks, source=source, target=target
        )
        self._add(event, tokens)

    @property
    def last_seq(self) -> int:
        """Of the latest event, taken or not; 0 before the first."""
        return self._seq

    def take(self) -> tuple[PoolEvent, ...]:
        """All that wait, oldest first; they wait no longer."""
        taken = tuple(self._events)
        self._events.clear()
        self._num_bytes = self._num_lost = 0
        return taken

    def _next(self) -> int:
        self._seq += 1
        return self._seq

    def _add(self, event: PoolEvent, tokens: bytes) -> None:
        if len(self._events) >= self._max_events or self._num_bytes + len(tokens) > self._max_bytes:
            self._num_lost += len(self._events) - (1 if self._num_lost else 0) + 1
            self._events = [EventsLost(seq=event.seq, num_events=self._num_lost)]
            self._num_bytes = 0
            return
        self._events.append(event)
        self._num_bytes += len(tokens)

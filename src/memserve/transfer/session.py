"""The receiver's state machine: all that peers have asked this pool to hold, without any I/O.

Owns when it begins and ends; the ledger passed in owns the blocks. Idempotent by transfer id; nothing is
visible before it is complete; everything ends by its own message, by expiry or by the sender's departure.
Not thread-safe: the caller holds one lock around this and the ledger.

    messages ─▶ Reservations (engine path)  ┐
             ─▶ Copies (library path)       ┼─▶ TransferBooks ─▶ ledger
    frames   ─▶ Arrivals (into reservations)┘
"""

import msgspec

from memserve.core.clock import Clock
from memserve.core.ids import Incarnation, InstanceId
from memserve.transfer.arrivals import Arrivals, is_busy
from memserve.transfer.books import TransferBooks
from memserve.transfer.copies import Copies
from memserve.transfer.ledger_port import Ledger
from memserve.transfer.record import TransferRecord, peer_owner
from memserve.transfer.reservations import Reservations
from memserve.transfer.states import TransferState


class SessionStats(msgspec.Struct, frozen=True, kw_only=True):
    num_open: int
    num_by_state: dict[TransferState, int]
    num_handoffs: int
    """Requests that something is reserved or kept for."""


class TransferSessions:
    """`reservations`, `copies` and `arrivals` take the messages; this class ends what time and departures end."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        clock: Clock,
        block_size: int,
        max_open: int = 4096,
        max_remembered: int = 4096,
    ) -> None:
        self._books = TransferBooks(ledger, max_open=max_open, max_remembered=max_remembered)
        self._clock = clock
        self.reservations = Reservations(ledger=ledger, books=self._books, clock=clock, block_size=block_size)
        self.arrivals = Arrivals(self._books)
        self.copies = Copies(ledger=ledger, books=self._books, clock=clock, block_size=block_size)

    def expire(self) -> int:
        """End what has outlived its time; returns how many. Call it at least once a second."""
        now = self._clock.now()
        due = [r for r in self._books if r.expires_at <= now and self._may_end(r)]
        for record in due:
            self._books.end(record, TransferState.EXPIRED)
        return len(due)

    def peer_left(self, instance: InstanceId, incarnation: Incarnation, *, process_gone: bool) -> None:
        """End what this life of the peer holds here.

        Unless its process is known to be gone, it might still write into reserved blocks: those wait
        for their expiry. What is kept for a request stays: it is whole, and the request may come.
        """
        sender = peer_owner(instance, incarnation)
        for record in self._books:
            if record.sender != sender:
                continue
            if record.state is TransferState.COPYING:
                record.sender_left = True
            elif record.state is TransferState.HELD or (record.state is TransferState.RESERVED and process_gone):
                self._leave(record)

    def stats(self) -> SessionStats:
        states = [record.state for record in self._books]
        return SessionStats(
            num_open=len(states),
            num_by_state={state: states.count(state) for state in sorted(set(states))},
            num_handoffs=self._books.num_requests,
        )

    def _may_end(self, record: TransferRecord) -> bool:
        return not self.copies.is_busy(record) and not is_busy(record)

    def _leave(self, record: TransferRecord) -> None:
        if self._may_end(record):
            self._books.end(record, TransferState.LEFT)
        else:
            record.expires_at = self._clock.now()

    def __repr__(self) -> str:
        return f"TransferSessions({self.stats()})"

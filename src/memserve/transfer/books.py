"""The receiver's books: transfers that own blocks, and what became of the latest that do not.

Owns the records and their indexes, and gives a transfer's blocks and leases back to the ledger when it
ends. Bounded: `max_open` transfers that own something, `max_remembered` endings (the oldest is forgotten;
its transfer id would then count as new).
"""

from collections import OrderedDict
from collections.abc import Iterator

import msgspec

from memserve.core.errors import PoolExhausted, TransferFailed
from memserve.core.ids import BlockId, RequestId, TransferId
from memserve.transfer.ledger_port import Ledger
from memserve.transfer.record import TransferRecord
from memserve.transfer.states import TransferState, check_move


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """How a transfer ended, for the repetitions of its messages."""

    sender: str | None
    """None: aborted by a connection that was not introduced."""
    state: TransferState
    blocks: tuple[BlockId, ...] = ()
    """What a TransferReply named."""


class TransferBooks:
    """All records of one pool."""

    def __init__(self, ledger: Ledger, *, max_open: int, max_remembered: int) -> None:
        self._ledger = ledger
        self._max_open = max_open
        self._max_remembered = max_remembered
        self._open: dict[TransferId, TransferRecord] = {}
        self._ended: OrderedDict[TransferId, Ending] = OrderedDict()
        self._by_request: dict[RequestId, list[TransferRecord]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[TransferRecord]:
        """A snapshot: records may end while it is walked."""
        return iter(tuple(self._open.values()))

    @property
    def num_requests(self) -> int:
        return len(self._by_request)

    def of_request(self, request: RequestId) -> tuple[TransferRecord, ...]:
        """Oldest first."""
        return tuple(self._by_request.get(request, ()))

    def find(self, transfer: TransferId, sender: str | None) -> TransferRecord | None:
        """The open record, if any. Raises TransferFailed when it is another sender's than the one named."""
        found = self._open.get(transfer)
        if found is not None and sender is not None and found.sender != sender:
            raise TransferFailed(f"transfer {transfer} is not one of {sender}")
        return found

    def ending(self, transfer: TransferId, sender: str | None) -> Ending | None:
        """How it ended, as far as that is remembered and this sender's business."""
        found = self._ended.get(transfer)
        return found if found is not None and sender in (None, found.sender) else None

    def check_room(self) -> None:
        """Raise PoolExhausted when no further transfer may own blocks."""
        if len(self._open) >= self._max_open:
            raise PoolExhausted(f"{len(self._open)} transfers are open, the most allowed; try again when some ended")

    def add(self, record: TransferRecord) -> None:
        self._open[record.transfer] = record
        if record.request is not None:
            self._by_request.setdefault(record.request, []).append(record)

    def move(self, record: TransferRecord, state: TransferState) -> None:
        check_move(f"transfer {record.transfer}", record.state, state)
        record.state = state

    def unname(self, record: TransferRecord) -> None:
        """No request will ask for it any more."""
        if record.request is None:
            return
        others = self._by_request[record.request]
        others.remove(record)
        if not others:
            del self._by_request[record.request]
        record.request = None

    def end(self, record: TransferRecord, state: TransferState, *, blocks: tuple[BlockId, ...] = ()) -> None:
        """Move to a last state and give back whatever the transfer still owns; `blocks` is remembered."""
        self.move(record, state)
        self.unname(record)
        del self._open[record.transfer]
        self._ledger.release_owner(record.owner)
        self.remember(record.transfer, Ending(sender=record.sender, state=state, blocks=blocks))

    def remember(self, transfer: TransferId, ending: Ending) -> None:
        self._ended[transfer] = ending
        if len(self._ended) > self._max_remembered:
            self._ended.popitem(last=False)

"""States of what a peer has asked this pool to hold, and the moves between them.

    ReserveRequest     RESERVED ──commit──▶ KEPT ──▶ TAKEN | RELEASED | EXPIRED
                           │   └──commit, nobody will ask──▶ PUBLISHED
                           └──▶ ABORTED | EXPIRED | LEFT
    TransferRequest    COPYING ──▶ PUBLISHED | FAILED
                           └─────▶ HELD ──▶ RELEASED | EXPIRED | LEFT
    AllocRequest       HELD

Everything in the first column of a row owns blocks; states without a way out own nothing.
"""

from enum import StrEnum

from memserve.core.errors import IllegalTransition


class TransferState(StrEnum):
    RESERVED = "reserved"
    """The sender writes into the blocks; nobody may read or reuse them."""
    COPYING = "copying"
    """This instance copies from the sender's arena."""
    HELD = "held"
    """Active blocks in the sender's name."""
    KEPT = "kept"
    """Whole and readable, waiting for the request they were sent for."""
    PUBLISHED = "published"
    TAKEN = "taken"
    RELEASED = "released"
    ABORTED = "aborted"
    FAILED = "failed"
    EXPIRED = "expired"
    LEFT = "left"
    """The sender died or came back as a new incarnation."""


_S = TransferState
_MOVES: dict[TransferState, frozenset[TransferState]] = {
    _S.RESERVED: frozenset({_S.KEPT, _S.PUBLISHED, _S.ABORTED, _S.EXPIRED, _S.LEFT}),
    _S.COPYING: frozenset({_S.HELD, _S.PUBLISHED, _S.FAILED}),
    _S.HELD: frozenset({_S.RELEASED, _S.EXPIRED, _S.LEFT}),
    _S.KEPT: frozenset({_S.TAKEN, _S.RELEASED, _S.EXPIRED}),
}

OPEN_STATES = frozenset(_MOVES)
"""Those that own blocks."""


def check_move(what: str, start: TransferState, finish: TransferState) -> None:
    """Raise IllegalTransition unless the table has the move."""
    if finish not in _MOVES.get(start, frozenset()):
        raise IllegalTransition(f"{what} cannot go from {start} to {finish}")

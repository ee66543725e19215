"""The legal moves of an instance's state, as a table. Owns nothing else; membership makes the moves.

             join            health ok            silent > suspect_s
    (none) ───────> JOINING ───────────> ACTIVE ─────────────────────> SUSPECT
                       ^                  │  ^         heartbeat          │
                       │  request failed  │  └────────────────────────────┤
                       └──────────────────┴───────────────────────────────┘
    JOINING, ACTIVE, SUSPECT ── asked to drain ──> DRAINING       (there is no way back: it joins anew)
    any ── process ended, left, silent > dead_s, replaced ──> LEFT

An instance that failed a request gets none until a health check passed, however lively its heartbeat:
that tells of its process, not of its server.
"""

from enum import Enum, auto

from memserve.cluster.view import InstanceState
from memserve.core.errors import IllegalTransition


class Move(Enum):
    HEARD = auto()
    READY = auto()
    FAILED = auto()
    SILENT = auto()
    DRAIN = auto()
    GONE = auto()


_JOINING, _ACTIVE, _SUSPECT, _DRAINING, _LEFT = InstanceState

_TABLE = {
    (_JOINING, Move.HEARD): _JOINING,
    (_JOINING, Move.READY): _ACTIVE,
    (_JOINING, Move.FAILED): _JOINING,
    (_JOINING, Move.SILENT): _JOINING,
    (_JOINING, Move.DRAIN): _DRAINING,
    (_JOINING, Move.GONE): _LEFT,
    (_ACTIVE, Move.HEARD): _ACTIVE,
    (_ACTIVE, Move.READY): _ACTIVE,
    (_ACTIVE, Move.FAILED): _JOINING,
    (_ACTIVE, Move.SILENT): _SUSPECT,
    (_ACTIVE, Move.DRAIN): _DRAINING,
    (_ACTIVE, Move.GONE): _LEFT,
    (_SUSPECT, Move.HEARD): _ACTIVE,
    (_SUSPECT, Move.READY): _SUSPECT,
    (_SUSPECT, Move.FAILED): _JOINING,
    (_SUSPECT, Move.SILENT): _SUSPECT,
    (_SUSPECT, Move.DRAIN): _DRAINING,
    (_SUSPECT, Move.GONE): _LEFT,
    (_DRAINING, Move.HEARD): _DRAINING,
    (_DRAINING, Move.READY): _DRAINING,
    (_DRAINING, Move.FAILED): _DRAINING,
    (_DRAINING, Move.SILENT): _DRAINING,
    (_DRAINING, Move.DRAIN): _DRAINING,
    (_DRAINING, Move.GONE): _LEFT,
}


def target_of(who: object, state: InstanceState, move: Move) -> InstanceState:
    """The state after the move. Raises IllegalTransition with the story of `who`."""
    target = _TABLE.get((state, move))
    if target is None:
        raise IllegalTransition(f"{who} is {state}: no move {move.name}")
    return target

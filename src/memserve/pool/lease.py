"""Who holds what, and until when: leases on indexed prefixes and allocations of active blocks.

Owns owners and deadlines. A hold ends when it is closed, when its owner is, or when its deadline
has passed and somebody asks for the expired ones. Never touches blocks: the ledger does.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from memserve.core.errors import InvalidLease
from memserve.core.ids import BlockId, LeaseId
from memserve.pool.radix_node import Anchor

NO_DEADLINE = math.inf


@dataclass(slots=True, kw_only=True, eq=False)
class Hold:
    """Something that one owner keeps from being reused."""

    id: LeaseId
    owner: str
    deadline: float
    """On the pool's clock, in seconds."""


@dataclass(slots=True, kw_only=True, eq=False)
class Lease(Hold):
    """Protects a matched prefix from eviction."""

    anchor: Anchor


@dataclass(slots=True, kw_only=True, eq=False)
class Allocation(Hold):
    """Active blocks that were allocated together."""

    blocks: tuple[BlockId, ...]
    """All of them, also those freed or inserted since."""
    num_left: int


class HoldBook:
    """All holds of one pool by id and by owner."""

    def __init__(self) -> None:
        self._holds: dict[LeaseId, Hold] = {}
        self._owners: dict[str, dict[LeaseId, Hold]] = {}
        self._earliest = NO_DEADLINE
        self._last_id = 0

    def __repr__(self) -> str:
        return f"HoldBook({len(self._holds)} holds of {len(self._owners)} owners)"

    def new_id(self) -> LeaseId:
        self._last_id += 1
        return LeaseId(self._last_id)

    def open(self, hold: Hold) -> None:
        self._holds[hold.id] = hold
        held = self._owners.get(hold.owner)
        if held is None:
            self._owners[hold.owner] = {hold.id: hold}
        else:
            held[hold.id] = hold
        self._earliest = min(self._earliest, hold.deadline)

    def close(self, hold: Hold) -> None:
        """Forget it. The hold must be open."""
        del self._holds[hold.id]
        held = self._owners[hold.owner]
        del held[hold.id]
        if not held:
            del self._owners[hold.owner]

    def find(self, hold_id: LeaseId) -> Hold | None:
        return self._holds.get(hold_id)

    def anchors(self) -> Iterator[Anchor]:
        """One of each open lease."""
        return (hold.anchor for hold in self._holds.values() if isinstance(hold, Lease))

    def held_by(self, owner: str) -> tuple[Hold, ...]:
        return tuple(self._owners.get(owner, {}).values())

    def extend(self, owner: str, *, deadline: float) -> None:
        """No hold of this owner ends before `deadline`; none ends earlier than it would have."""
        for hold in self.held_by(owner):
            hold.deadline = max(hold.deadline, deadline)

    def expired(self, now: float) -> tuple[Hold, ...]:
        """Those whose deadline is not after `now`."""
        if now < self._earliest:
            return ()
        past = tuple(hold for hold in self._holds.values() if hold.deadline <= now)
        later = (hold.deadline for hold in self._holds.values() if hold.deadline > now)
        self._earliest = min(later, default=NO_DEADLINE)
        return past


def deadline_after(now: float, ttl_s: float | None) -> float:
    """The end of a hold taken now; None never ends. Raises InvalidLease unless ttl_s is positive."""
    if ttl_s is None:
        return NO_DEADLINE
    if not ttl_s > 0:
        raise InvalidLease(f"a time to live of {ttl_s} s: give a positive number of seconds")
    return now + ttl_s

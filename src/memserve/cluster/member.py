"""A member's own side of membership: what it says next to the cluster manager, and what an answer means.

Owns whether this incarnation is inside, its role and up to which view it has heard of deaths. Does no I/O: whoever
carries the messages asks for the next one, and says how it was answered or that it was not.

    outside ── JoinReply ──> inside ── not known any more, no answer, refused ──> outside
"""

import msgspec

from memserve.core.ids import Epoch
from memserve.wire.messages import DeadInstance, HeartbeatReply, HeartbeatRequest, JoinReply, JoinRequest, Load


class Member:
    """One incarnation of one instance."""

    def __init__(self, join: JoinRequest) -> None:
        self._join = join
        self._is_inside = False
        self._seen = Epoch(0)

    @property
    def is_inside(self) -> bool:
        return self._is_inside

    @property
    def identity(self) -> DeadInstance:
        """As others would hear of its death."""
        return DeadInstance(instance=self._join.peer.instance, incarnation=self._join.peer.incarnation)

    def next_message(self, load: Load) -> JoinRequest | HeartbeatRequest:
        """What to send now; `load` goes with a heartbeat."""
        if not self._is_inside:
            return self._join
        me = self._join.peer
        return HeartbeatRequest(instance=me.instance, incarnation=me.incarnation, load=load, seen=self._seen)

    def answered(self, reply: JoinReply | HeartbeatReply) -> tuple[DeadInstance, ...]:
        """Peers whose holds here are to be freed now.

        One that joins again hears also who died while it was outside. It may hear of a death twice.
        """
        if isinstance(reply, JoinReply):
            self._is_inside = True
            self._seen = reply.epoch
            return ()
        self._is_inside = reply.known
        if not reply.known:
            return ()
        self._seen = reply.epoch
        if reply.role is not None:
            self._join = msgspec.structs.replace(self._join, role=reply.role)
        return tuple(dead for dead in reply.dead if dead != self.identity)

    def lost(self) -> None:
        """There was no answer, or a refusal."""
        self._is_inside = False

    def __repr__(self) -> str:
        me = self.identity
        return f"Member({me.instance}/{me.incarnation}, {'inside' if self._is_inside else 'outside'})"

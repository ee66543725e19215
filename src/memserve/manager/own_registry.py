"""The gateway's own registry: instances join the manager, tell it that they live, and leave.

Owns nothing but the path: what comes in becomes a fact for membership, and its answer the reply. One gateway has
the cluster to itself; when it is gone, instances wait for the next one at its address.
"""

import logging
import time

from memserve.cluster.events import DrainAsked, HeartbeatReceived, InstanceJoined, LeaveReceived, RoleAsked
from memserve.cluster.membership import Membership
from memserve.cluster.view import InstanceView
from memserve.core.enums import Role
from memserve.core.errors import ConfigError, LeaseLost, MemserveError
from memserve.core.ids import Incarnation, InstanceId
from memserve.manager.desk import Desk
from memserve.manager.registry import ALONE, ActingScaler, RegistryStats, Tell
from memserve.wire.messages import (
    AckReply,
    HeartbeatReply,
    HeartbeatRequest,
    JoinReply,
    JoinRequest,
    LeaveRequest,
    PeerInfo,
)

HEARTBEAT_S = 1.0
"""How often an instance is asked to tell that it lives."""
_AHEAD_S = 600.0
"""How much the clock of another host may be ahead of this one's: incarnations are times."""
_log = logging.getLogger(__name__)


class OwnRegistry:
    """In the process of the manager."""

    def __init__(self, desk: Desk, membership: Membership, tell: Tell) -> None:
        self._desk = desk
        self._membership = membership
        self._tell = tell
        desk.answer_members(self._answer)

    @property
    def join(self) -> str:
        return self._desk.endpoint

    @property
    def is_hearing(self) -> bool:
        """Always: members tell this very process."""
        return True

    @property
    def acting_scaler(self) -> ActingScaler:
        return ALONE

    def stats(self) -> RegistryStats:
        return RegistryStats(is_up=True)

    async def start(self) -> None:
        """Nothing has to be opened: the desk listens."""

    async def agree(self, asked: DrainAsked | RoleAsked) -> None:
        """Members hear of it with their next heartbeat."""
        self._tell(asked)

    async def dismiss(self, instance: InstanceId, incarnation: Incarnation) -> None:
        """It hears of it with its next heartbeat."""
        self._desk.dismiss(instance, incarnation)

    def gone(self, instance: InstanceId, incarnation: Incarnation) -> None:
        """There is nobody else to be told."""

    async def close(self) -> None:
        """Nothing of it is open."""

    def _answer(self, message: JoinRequest | HeartbeatRequest | LeaveRequest) -> JoinReply | HeartbeatReply | AckReply:
        match message:
            case JoinRequest():
                return self._join(message)
            case HeartbeatRequest():
                return self._heartbeat(message)
            case LeaveRequest(instance=instance, incarnation=incarnation):
                self._tell(LeaveReceived(instance=instance, incarnation=incarnation))
                return AckReply()

    def _join(self, message: JoinRequest) -> JoinReply:
        name = message.peer.instance
        try:
            self._check(message)
            self._tell(InstanceJoined(peer=message.peer, role=message.role, url=message.url, can_play=message.can_play))
        except LeaseLost as error:
            _log.warning("%s", error)
            raise  # no refusal of its name: its supervisor is to start it again
        except MemserveError as error:
            self._desk.refuse(name, message.peer.incarnation, str(error))
            raise
        self._desk.accepted(name, message.peer.incarnation)
        return JoinReply(epoch=self._membership.first_epoch(name), heartbeat_s=HEARTBEAT_S)

    def _check(self, message: JoinRequest) -> None:
        name = message.peer.instance
        if message.cluster != self._desk.cluster:
            raise ConfigError(
                f'{name} wants to join cluster "{message.cluster}", but this is "{self._desk.cluster}": '
                "give it this name or another --join"
            )
        if message.peer.incarnation <= 0:
            raise ConfigError(f"{name} says that it was started before 1970: set the clock of its host (NTP)")
        ahead_s = message.peer.incarnation / 1e9 - time.time()
        if ahead_s > _AHEAD_S:
            raise ConfigError(
                f"{name} says that it was started {ahead_s:.0f} s from now: set the clocks of both hosts (NTP), "
                "or no later start under this name would be accepted"
            )

    def _heartbeat(self, message: HeartbeatRequest) -> HeartbeatReply:
        self._tell(HeartbeatReceived(instance=message.instance, incarnation=message.incarnation, load=message.load))
        known = self._membership.knows(message.instance, message.incarnation)
        present = self._membership.view.find(message.instance) if known else None
        return HeartbeatReply(
            epoch=self._membership.view.epoch,
            known=known,
            role=present.role if present is not None else None,
            dismissed=self._desk.has_dismissed(message.instance, message.incarnation),
            memory=self._memory_for(present) if present is not None else (),
            dead=self._membership.dead_since(message.seen) if known else (),
        )

    def _memory_for(self, member: InstanceView) -> tuple[PeerInfo, ...]:
        """Memory instances do not fill each other up."""
        if member.role is Role.MEMORY:
            return ()
        return tuple(instance.peer for instance in self._membership.view.active(Role.MEMORY))

    def __repr__(self) -> str:
        return f"OwnRegistry({self._desk})"

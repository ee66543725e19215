"""Facts that membership hears, and effects that it returns for others to perform."""

from enum import StrEnum

import msgspec

from memserve.cluster.view import ClusterView
from memserve.core.enums import Role
from memserve.core.ids import Incarnation, InstanceId
from memserve.wire.messages import Load, PeerInfo


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """Base of what goes in."""


class InstanceJoined(Fact, frozen=True):
    peer: PeerInfo
    role: Role
    url: str
    can_play: tuple[Role, ...] = ()
    """Roles that its engine can change to; its own need not be among them."""


class HeartbeatReceived(Fact, frozen=True):
    instance: InstanceId
    incarnation: Incarnation
    load: Load = Load()


class InstanceReady(Fact, frozen=True):
    """Its server answered a health check."""

    instance: InstanceId
    incarnation: Incarnation


class RequestFailed(Fact, frozen=True):
    """A connection to its server was refused or broke."""

    instance: InstanceId
    incarnation: Incarnation


class ProcessExited(Fact, frozen=True):
    """The process that the launcher started under this name has ended."""

    instance: InstanceId
    why: str


class LeaveReceived(Fact, frozen=True):
    instance: InstanceId
    incarnation: Incarnation


class LeaseEnded(Fact, frozen=True):
    """It is no longer on the list that several managers share: it left, or nobody heard of it for too long."""

    instance: InstanceId
    incarnation: Incarnation


class DrainAsked(Fact, frozen=True):
    """An operator, or the instance itself, wants it to finish and go."""

    instance: InstanceId


class RoleAsked(Fact, frozen=True):
    instance: InstanceId
    role: Role


class OrderSeen(Fact, frozen=True):
    """What some manager has decided about it, and checked: it is so."""

    instance: InstanceId
    incarnation: Incarnation
    role: Role | None
    """None: as it joined."""
    is_draining: bool


class Tick(Fact, frozen=True):
    """Time has passed; comes several times in `suspect_s`."""


Event = (
    InstanceJoined
    | HeartbeatReceived
    | InstanceReady
    | RequestFailed
    | ProcessExited
    | LeaveReceived
    | LeaseEnded
    | DrainAsked
    | RoleAsked
    | OrderSeen
    | Tick
)


class ViewChanged(msgspec.Struct, frozen=True, kw_only=True):
    """Tell everybody who routes or talks."""

    view: ClusterView


class Cause(StrEnum):
    EXITED = "exited"
    LEFT = "left"
    SILENT = "silent"
    """Its process may still run: whoever can, ends it, so that it does no more as a member."""
    REPLACED = "replaced"


class InstanceDied(msgspec.Struct, frozen=True, kw_only=True):
    """Free what this incarnation holds elsewhere and drop its index entries."""

    instance: InstanceId
    incarnation: Incarnation
    cause: Cause
    why: str


Effect = ViewChanged | InstanceDied

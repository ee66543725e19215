"""Facts that membership hears, and effects that it returns for others to perform."""

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


class Tick(Fact, frozen=True):
    """Time has passed; comes several times in `suspect_s`."""


Event = InstanceJoined | HeartbeatReceived | InstanceReady | RequestFailed | ProcessExited | LeaveReceived | Tick


class ViewChanged(msgspec.Struct, frozen=True, kw_only=True):
    """Tell everybody who routes or talks."""

    view: ClusterView


class InstanceDied(msgspec.Struct, frozen=True, kw_only=True):
    """Free what this incarnation holds elsewhere and drop its index entries."""

    instance: InstanceId
    incarnation: Incarnation
    why: str


Effect = ViewChanged | InstanceDied

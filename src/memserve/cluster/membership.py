"""Membership: who is in the cluster and who may get requests, decided from facts.

Owns the state of every instance and the epoch. Does no I/O: facts go in through `handle`, effects
come out, and the cluster manager performs them.

             join            health ok            silent > suspect_s
    (none) ───────> JOINING ───────────> ACTIVE ─────────────────────> SUSPECT
                       ^                  │  ^         heartbeat          │
                       │  request failed  │  └────────────────────────────┤
                       └──────────────────┴───────────────────────────────┘
    any ── process ended, left, silent > dead_s, a newer incarnation joined ──> LEFT

An instance that failed a request gets none until a health check passed, however lively its heartbeat:
that tells of its process, not of its server. A new incarnation replaces the old one, which is reported
dead; an older one is refused, and what is said about one that is not the present one is ignored.
"""

from collections import deque
from collections.abc import Callable
from enum import Enum, auto

import msgspec

from memserve.cluster.events import (
    Effect,
    Event,
    HeartbeatReceived,
    InstanceDied,
    InstanceJoined,
    InstanceReady,
    LeaveReceived,
    ProcessExited,
    RequestFailed,
    Tick,
    ViewChanged,
)
from memserve.cluster.view import ClusterView, InstanceState, InstanceView
from memserve.core.clock import Clock
from memserve.core.errors import IllegalTransition, InstanceUnavailable
from memserve.core.ids import Epoch, Incarnation, InstanceId
from memserve.wire.messages import DeadInstance, Load

_REMEMBERED_DEATHS = 256
"""Deaths told to instances that have not heard of them; older ones they learn from lease expiry."""


class _Move(Enum):
    HEARD = auto()
    READY = auto()
    FAILED = auto()
    SILENT = auto()
    GONE = auto()


_JOINING, _ACTIVE, _SUSPECT, _LEFT = InstanceState

_TABLE = {
    (_JOINING, _Move.HEARD): _JOINING,
    (_JOINING, _Move.READY): _ACTIVE,
    (_JOINING, _Move.FAILED): _JOINING,
    (_JOINING, _Move.SILENT): _JOINING,
    (_JOINING, _Move.GONE): _LEFT,
    (_ACTIVE, _Move.HEARD): _ACTIVE,
    (_ACTIVE, _Move.READY): _ACTIVE,
    (_ACTIVE, _Move.FAILED): _JOINING,
    (_ACTIVE, _Move.SILENT): _SUSPECT,
    (_ACTIVE, _Move.GONE): _LEFT,
    (_SUSPECT, _Move.HEARD): _ACTIVE,
    (_SUSPECT, _Move.READY): _SUSPECT,
    (_SUSPECT, _Move.FAILED): _JOINING,
    (_SUSPECT, _Move.SILENT): _SUSPECT,
    (_SUSPECT, _Move.GONE): _LEFT,
}


class _Member(msgspec.Struct, frozen=True, kw_only=True):
    view: InstanceView
    heard_at: float
    joined_epoch: Epoch


class _Death(msgspec.Struct, frozen=True, kw_only=True):
    epoch: Epoch
    dead: DeadInstance


class Membership:
    """State machine of one cluster: `handle` changes state and returns effects, or raises and changes nothing."""

    def __init__(self, *, clock: Clock, suspect_s: float = 5.0, dead_s: float = 20.0) -> None:
        """An instance in a long prefill on a busy machine may be late by seconds: `suspect_s` allows for it."""
        if not 0 < suspect_s < dead_s:
            raise ValueError(f"suspect_s {suspect_s} must be positive and less than dead_s {dead_s}")
        self._clock = clock
        self._suspect_s = suspect_s
        self._dead_s = dead_s
        self._members: dict[InstanceId, _Member] = {}
        self._last_incarnation: dict[InstanceId, Incarnation] = {}
        self._deaths: deque[_Death] = deque(maxlen=_REMEMBERED_DEATHS)
        self._epoch = Epoch(0)
        self._view = ClusterView()
        self._handlers: dict[type[Event], Callable[..., list[InstanceDied]]] = {
            InstanceJoined: self._on_joined,
            HeartbeatReceived: self._on_heartbeat,
            InstanceReady: self._on_ready,
            RequestFailed: self._on_failed,
            ProcessExited: self._on_exited,
            LeaveReceived: self._on_left,
            Tick: self._on_tick,
        }

    @property
    def view(self) -> ClusterView:
        """With the latest loads; the epoch grows only when an instance comes, goes or changes state."""
        return self._view

    def handle(self, event: Event) -> tuple[Effect, ...]:
        """Deaths first, then the view if it changed.

        Joining raises IdentityMismatch when the instance cannot share KV with the cluster, and
        InstanceUnavailable when a newer incarnation of it is or was here.
        """
        died = self._handlers[type(event)](event)
        instances = tuple(self._members[name].view for name in sorted(self._members))
        changed = _shape(instances) != _shape(self._view.instances) or bool(died)
        if changed:
            self._epoch = Epoch(self._epoch + 1)
        self._deaths.extend(
            _Death(epoch=self._epoch, dead=DeadInstance(instance=d.instance, incarnation=d.incarnation)) for d in died
        )
        self._view = ClusterView(epoch=self._epoch, instances=instances)
        return (*died, *([ViewChanged(view=self._view)] if changed else []))

    def knows(self, instance: InstanceId, incarnation: Incarnation) -> bool:
        """Whether this very incarnation is a member."""
        return self._find(instance, incarnation) is not None

    def dead_since_join(self, instance: InstanceId) -> tuple[DeadInstance, ...]:
        """Who died since `instance` joined, but for those that came back as the same incarnation."""
        member = self._members.get(instance)
        if member is None:
            return ()
        recent = (d.dead for d in self._deaths if d.epoch > member.joined_epoch)
        return tuple(dead for dead in recent if not self.knows(dead.instance, dead.incarnation))

    def __repr__(self) -> str:
        states = ", ".join(f"{name}#{m.view.incarnation} {m.view.state}" for name, m in sorted(self._members.items()))
        return f"Membership(epoch {self._epoch}: {states or 'nobody'})"

    def _on_joined(self, event: InstanceJoined) -> list[InstanceDied]:
        peer = event.peer
        present = self._members.get(peer.instance)
        self._check(event)
        if present is not None and present.view.incarnation == peer.incarnation:
            self._move(present, _Move.HEARD)
            return []
        died = [] if present is None else [self._bury(present, "a new incarnation joined")]
        self._last_incarnation[peer.instance] = peer.incarnation
        self._members[peer.instance] = _Member(
            view=InstanceView(peer=peer, role=event.role, url=event.url, state=_JOINING, load=Load()),
            heard_at=self._clock.now(),
            joined_epoch=Epoch(self._epoch + 1),
        )
        return died

    def _check(self, event: InstanceJoined) -> None:
        peer = event.peer
        last = self._last_incarnation.get(peer.instance)
        if last is not None and peer.incarnation < last:
            raise InstanceUnavailable(
                f"incarnation {peer.incarnation} of {peer.instance} is older than {last}, which joined before: "
                "stop the old process, or give each instance its own name"
            )
        others = [m for name, m in self._members.items() if name != peer.instance]
        if others:
            first = min(others, key=lambda m: m.joined_epoch).view
            peer.identity.check_same(first.peer.identity, first.instance)

    def _on_heartbeat(self, event: HeartbeatReceived) -> list[InstanceDied]:
        member = self._find(event.instance, event.incarnation)
        if member is not None:
            loaded = msgspec.structs.replace(member.view, load=event.load)
            self._move(msgspec.structs.replace(member, view=loaded), _Move.HEARD)
        return []

    def _on_ready(self, event: InstanceReady) -> list[InstanceDied]:
        member = self._find(event.instance, event.incarnation)
        if member is not None:
            self._move(member, _Move.READY)
        return []

    def _on_failed(self, event: RequestFailed) -> list[InstanceDied]:
        member = self._find(event.instance, event.incarnation)
        if member is not None:
            self._move(member, _Move.FAILED)
        return []

    def _on_exited(self, event: ProcessExited) -> list[InstanceDied]:
        member = self._members.get(event.instance)
        return [] if member is None else [self._bury(member, event.why)]

    def _on_left(self, event: LeaveReceived) -> list[InstanceDied]:
        member = self._find(event.instance, event.incarnation)
        return [] if member is None else [self._bury(member, "it left")]

    def _on_tick(self, _event: Tick) -> list[InstanceDied]:
        died = []
        for member in list(self._members.values()):
            silent_s = self._clock.now() - member.heard_at
            if silent_s > self._dead_s:
                died.append(self._bury(member, f"silent for {silent_s:.1f} s, more than {self._dead_s:g} s"))
            elif silent_s > self._suspect_s:
                self._move(member, _Move.SILENT)
        return died

    def _find(self, instance: InstanceId, incarnation: Incarnation) -> _Member | None:
        member = self._members.get(instance)
        return member if member is not None and member.view.incarnation == incarnation else None

    def _move(self, member: _Member, move: _Move) -> None:
        view = member.view
        target = _TABLE.get((view.state, move))
        if target is None:
            raise IllegalTransition(f"{view.instance}#{view.incarnation} is {view.state}: no move {move.name}")
        moved = msgspec.structs.replace(view, state=target)
        heard_at = self._clock.now() if move is _Move.HEARD else member.heard_at
        self._members[view.instance] = msgspec.structs.replace(member, view=moved, heard_at=heard_at)

    def _bury(self, member: _Member, why: str) -> InstanceDied:
        self._move(member, _Move.GONE)
        view = self._members.pop(member.view.instance).view
        return InstanceDied(instance=view.instance, incarnation=view.incarnation, why=why)


def _shape(instances: tuple[InstanceView, ...]) -> list[tuple[InstanceId, Incarnation, InstanceState]]:
    return [(i.instance, i.incarnation, i.state) for i in instances]

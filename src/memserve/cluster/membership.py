"""Membership: who is in the cluster and who may get requests, decided from facts.

Owns the state of every instance (states.py has the moves) and the epoch. Does no I/O: facts go in through
`handle`, effects come out, and the cluster manager performs them.

A new incarnation replaces one that is silent, which is reported dead; while the old one is heard of, it is
refused, and an older one is refused always. What is said about one that is not the present one is ignored.
"""

from collections.abc import Callable

import msgspec

from memserve.cluster.deaths import Deaths
from memserve.cluster.elasticity import check_drain, check_role
from memserve.cluster.events import (
    Cause,
    DrainAsked,
    Effect,
    Event,
    HeartbeatReceived,
    InstanceDied,
    InstanceJoined,
    InstanceReady,
    LeaseEnded,
    LeaveReceived,
    OrderSeen,
    ProcessExited,
    RequestFailed,
    RoleAsked,
    Tick,
    ViewChanged,
)
from memserve.cluster.joining import check_newest, name_taken, taken_for_dead
from memserve.cluster.states import Move, target_of
from memserve.cluster.view import ClusterView, InstanceState, InstanceView
from memserve.core.clock import Clock
from memserve.core.enums import Role
from memserve.core.errors import ConfigError
from memserve.core.ids import Epoch, Incarnation, InstanceId
from memserve.wire.messages import DeadInstance, Load


class _Member(msgspec.Struct, frozen=True, kw_only=True):
    view: InstanceView
    heard_at: float
    joined_epoch: Epoch


class _Newest(msgspec.Struct, frozen=True, kw_only=True):
    """The newest life of a name, remembered when it is gone."""

    incarnation: Incarnation
    epoch: Epoch
    """Of the first view that it was in."""
    is_fenced: bool = False
    """It was silent for too long: what it held is given to others, so that this life must not go on."""


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
        self._newest: dict[InstanceId, _Newest] = {}
        self._deaths = Deaths()
        self._epoch = Epoch(0)
        self._view = ClusterView()
        self._handlers: dict[type[Event], Callable[..., list[InstanceDied]]] = {
            InstanceJoined: self._on_joined,
            HeartbeatReceived: self._on_heartbeat,
            InstanceReady: self._on_ready,
            RequestFailed: self._on_failed,
            ProcessExited: self._on_exited,
            LeaveReceived: self._on_left,
            LeaseEnded: self._on_lease_ended,
            DrainAsked: self._on_drain,
            RoleAsked: self._on_role,
            OrderSeen: self._on_order,
            Tick: self._on_tick,
        }

    @property
    def view(self) -> ClusterView:
        """With the latest loads; the epoch grows only when an instance comes, goes or changes state."""
        return self._view

    def handle(self, event: Event) -> tuple[Effect, ...]:
        """Deaths first, then the view if it changed.

        Joining raises IdentityMismatch when the instance cannot share KV with the cluster, InstanceUnavailable
        when a newer incarnation of it is or was here, ConfigError when another process is alive under its name,
        LeaseLost when this very incarnation was silent for too long.
        Draining and changing a role raise ConfigError when that cannot be, with the reason.
        """
        died = self._handlers[type(event)](event)
        instances = tuple(self._members[name].view for name in sorted(self._members))
        changed = _shape(instances) != _shape(self._view.instances) or bool(died)
        if changed:
            self._epoch = Epoch(self._epoch + 1)
        for dead in died:
            self._deaths.add(dead.instance, dead.incarnation, epoch=self._epoch)
        self._view = ClusterView(epoch=self._epoch, instances=instances)
        return (*died, *([ViewChanged(view=self._view)] if changed else []))

    def check(self, asked: DrainAsked | RoleAsked) -> None:
        """Raise ConfigError with the reason when this must not be; nothing is changed."""
        member = self._named(asked.instance)
        if isinstance(asked, DrainAsked):
            check_drain(self._view, member.view)
        else:
            check_role(self._view, member.view, asked.role)

    def knows(self, instance: InstanceId, incarnation: Incarnation) -> bool:
        """Whether this very incarnation is a member."""
        return self._find(instance, incarnation) is not None

    def first_epoch(self, instance: InstanceId) -> Epoch:
        """Of the first view with the newest incarnation of this name: who died before is none of its business."""
        newest = self._newest.get(instance)
        return newest.epoch if newest is not None else self._epoch

    def dead_since(self, epoch: Epoch) -> tuple[DeadInstance, ...]:
        """Who died after the view of `epoch`, but for those that came back as the same incarnation."""
        return tuple(dead for dead in self._deaths.since(epoch) if not self.knows(dead.instance, dead.incarnation))

    def __repr__(self) -> str:
        states = ", ".join(f"{name}#{m.view.incarnation} {m.view.state}" for name, m in sorted(self._members.items()))
        return f"Membership(epoch {self._epoch}: {states or 'nobody'})"

    def _on_joined(self, event: InstanceJoined) -> list[InstanceDied]:
        peer = event.peer
        present = self._members.get(peer.instance)
        self._check(event)
        if present is not None and present.view.incarnation == peer.incarnation:
            self._move(present, Move.HEARD)
            return []
        died = [] if present is None else [self._bury(present, Cause.REPLACED, "a new incarnation joined")]
        epoch = Epoch(self._epoch + 1)
        newest = self._newest.get(peer.instance)
        if newest is None or newest.incarnation != peer.incarnation:
            self._newest[peer.instance] = _Newest(incarnation=peer.incarnation, epoch=epoch)
        self._members[peer.instance] = _Member(
            view=InstanceView(
                peer=peer,
                role=event.role,
                url=event.url,
                state=InstanceState.JOINING,
                load=Load(),
                can_play=event.can_play,
            ),
            heard_at=self._clock.now(),
            joined_epoch=epoch,
        )
        return died

    def _check(self, event: InstanceJoined) -> None:
        peer = event.peer
        newest = self._newest.get(peer.instance)
        check_newest(peer, newest.incarnation if newest is not None else None)
        if newest is not None and newest.is_fenced and newest.incarnation == peer.incarnation:
            raise taken_for_dead(peer)
        present = self._members.get(peer.instance)
        if present is not None and present.view.incarnation != peer.incarnation:
            silent_s = self._clock.now() - present.heard_at
            if silent_s <= self._suspect_s:
                raise name_taken(peer, present.view.incarnation, f"heard of {silent_s:.1f} s ago")
        others = [m for name, m in self._members.items() if name != peer.instance]
        if others:
            first = min(others, key=lambda m: m.joined_epoch).view
            peer.identity.check_same(first.peer.identity, first.instance)

    def _on_heartbeat(self, event: HeartbeatReceived) -> list[InstanceDied]:
        member = self._find(event.instance, event.incarnation)
        if member is not None:
            loaded = msgspec.structs.replace(member.view, load=event.load)
            self._move(msgspec.structs.replace(member, view=loaded), Move.HEARD)
        return []

    def _on_ready(self, event: InstanceReady) -> list[InstanceDied]:
        member = self._find(event.instance, event.incarnation)
        if member is not None:
            self._move(member, Move.READY)
        return []

    def _on_failed(self, event: RequestFailed) -> list[InstanceDied]:
        member = self._find(event.instance, event.incarnation)
        if member is not None:
            self._move(member, Move.FAILED)
        return []

    def _on_exited(self, event: ProcessExited) -> list[InstanceDied]:
        member = self._members.get(event.instance)
        return [] if member is None else [self._bury(member, Cause.EXITED, event.why)]

    def _on_left(self, event: LeaveReceived) -> list[InstanceDied]:
        member = self._find(event.instance, event.incarnation)
        return [] if member is None else [self._bury(member, Cause.LEFT, "it left")]

    def _on_lease_ended(self, event: LeaseEnded) -> list[InstanceDied]:
        member = self._find(event.instance, event.incarnation)
        if member is None:
            return []
        silent_s = self._clock.now() - member.heard_at
        if silent_s <= self._suspect_s:
            return [self._bury(member, Cause.LEFT, "it left")]
        return [self._bury(member, Cause.SILENT, f"silent for {silent_s:.1f} s, and its lease has ended")]

    def _on_drain(self, event: DrainAsked) -> list[InstanceDied]:
        self.check(event)
        self._move(self._named(event.instance), Move.DRAIN)
        return []

    def _on_role(self, event: RoleAsked) -> list[InstanceDied]:
        self.check(event)
        self._play(self._named(event.instance), event.role)
        return []

    def _on_order(self, event: OrderSeen) -> list[InstanceDied]:
        if event.role is not None and (member := self._find(event.instance, event.incarnation)) is not None:
            self._play(member, event.role)
        if event.is_draining and (member := self._find(event.instance, event.incarnation)) is not None:
            self._move(member, Move.DRAIN)
        return []

    def _play(self, member: _Member, role: Role) -> None:
        changed = msgspec.structs.replace(member.view, role=role)
        self._members[changed.instance] = msgspec.structs.replace(member, view=changed)

    def _on_tick(self, _event: Tick) -> list[InstanceDied]:
        died = []
        for member in list(self._members.values()):
            silent_s = self._clock.now() - member.heard_at
            if silent_s > self._dead_s:
                why = f"silent for {silent_s:.1f} s, more than {self._dead_s:g} s"
                died.append(self._bury(member, Cause.SILENT, why))
                name = member.view.instance
                self._newest[name] = msgspec.structs.replace(self._newest[name], is_fenced=True)
            elif silent_s > self._suspect_s:
                self._move(member, Move.SILENT)
        return died

    def _find(self, instance: InstanceId, incarnation: Incarnation) -> _Member | None:
        member = self._members.get(instance)
        return member if member is not None and member.view.incarnation == incarnation else None

    def _named(self, instance: InstanceId) -> _Member:
        member = self._members.get(instance)
        if member is None:
            known = ", ".join(sorted(self._members)) or "nobody"
            raise ConfigError(f'there is no instance "{instance}": known are {known}')
        return member

    def _move(self, member: _Member, move: Move) -> None:
        view = member.view
        target = target_of(f"{view.instance}#{view.incarnation}", view.state, move)
        moved = msgspec.structs.replace(view, state=target)
        heard_at = self._clock.now() if move is Move.HEARD else member.heard_at
        self._members[view.instance] = msgspec.structs.replace(member, view=moved, heard_at=heard_at)

    def _bury(self, member: _Member, cause: Cause, why: str) -> InstanceDied:
        self._move(member, Move.GONE)
        view = self._members.pop(member.view.instance).view
        return InstanceDied(instance=view.instance, incarnation=view.incarnation, cause=cause, why=why)


def _shape(instances: tuple[InstanceView, ...]) -> list[tuple[InstanceId, Incarnation, Role, InstanceState]]:
    return [(i.instance, i.incarnation, i.role, i.state) for i in instances]

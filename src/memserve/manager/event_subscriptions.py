"""Who of the cluster is listened to: one event reader for each incarnation that is a member.

Owns the readers' tasks. Decides nothing: the view says who is a member, the target what events mean.

    built -> running (inside the event loop) -> update with each view -> all readers ended
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from memserve.cluster.view import ClusterView, InstanceState
from memserve.core.clock import Clock
from memserve.core.enums import Role
from memserve.core.ids import Incarnation, InstanceId
from memserve.rpc.event_stream import EventReader, EventSink
from memserve.security.secret import ClusterSecret
from memserve.wire.messages import PeerInfo

Member = tuple[InstanceId, Incarnation, Role]
"""One that changes its role is followed anew: what it holds belongs somewhere else."""

_RESTART_S = 5.0
_log = logging.getLogger(__name__)


class EventTarget(EventSink, Protocol):
    """The Scheduler fits."""

    def admit(self, instance: InstanceId, incarnation: Incarnation, role: Role) -> None:
        """Its events will come from now on."""
        ...


class EventSubscriptions:
    def __init__(self, target: EventTarget, *, clock: Clock, secret: ClusterSecret | None = None) -> None:
        self._secret = secret
        self._target = target
        self._clock = clock
        self._group: asyncio.TaskGroup | None = None
        self._readers: dict[Member, asyncio.Task[None]] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Readers run for the length of the block."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                yield
            finally:
                self._group = None
                self._keep(set())

    def update(self, view: ClusterView) -> None:
        """Follow exactly the members of this view; nobody outside `running`."""
        if self._group is None:
            return
        members = {(i.instance, i.incarnation, i.role): i for i in view.instances if i.state is not InstanceState.LEFT}
        self._keep(set(members))
        for member in members.keys() - self._readers.keys():
            found = members[member]
            self._target.admit(found.instance, found.incarnation, found.role)
            self._readers[member] = self._group.create_task(self._read(found.peer), name=f"events of {found.instance}")

    def _keep(self, members: set[Member]) -> None:
        for member in self._readers.keys() - members:
            self._readers.pop(member).cancel()

    async def _read(self, peer: PeerInfo) -> None:
        while True:
            try:
                await EventReader(peer, self._target, clock=self._clock, secret=self._secret).run()
            except Exception:
                # A bug on the way of one instance's events must not end the others' or the gateway.
                _log.exception("following the events of %s failed; starting anew in %g s", peer.instance, _RESTART_S)
            await asyncio.sleep(_RESTART_S)

    def __repr__(self) -> str:
        return f"EventSubscriptions({', '.join(sorted(name for name, _, _ in self._readers)) or 'nobody'})"

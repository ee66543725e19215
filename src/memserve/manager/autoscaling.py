"""The autoscaler at work: looks at the cluster again and again, and proposes or makes what it decides.

Owns the one task that does so and what was decided lately. The decisions are the Autoscaler's; its changes are
carried out by Elasticity as an operator's `scale` and `role` are, and are followed in the same way. What Elasticity
refuses is told with its reason, and not asked for again until the cool-down is over. Of the gateways that share a
cluster one acts; the registry says which.

    built -> running (inside the event loop): look, decide, propose or make, wait -> task ended
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Protocol

import msgspec

from memserve.cluster.autoscaler import Autoscaler, Bounds, Change, Observation, Resize
from memserve.cluster.service_levels import Levels, LevelSource, Targets
from memserve.cluster.view import ClusterView
from memserve.core.clock import Clock
from memserve.core.enums import AutoscaleMode, Role
from memserve.core.errors import ConfigError, InstanceUnavailable
from memserve.core.ids import InstanceId
from memserve.manager.operations import Operation
from memserve.manager.registry import ALONE, ActingScaler

_KEPT = 50
_log = logging.getLogger(__name__)


class Outcome(StrEnum):
    PROPOSED = "proposed"
    MADE = "made"
    """Begun as operations; how they end is theirs to tell."""
    REFUSED = "refused"


class Decided(msgspec.Struct, frozen=True, kw_only=True):
    """One change that the autoscaler wanted."""

    seconds_ago: float
    change: str
    """In words, with the numbers behind it."""
    outcome: Outcome
    operations: tuple[int, ...] = ()
    reason: str = ""
    """Of a refusal."""


class AutoscalerReport(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator is shown."""

    mode: AutoscaleMode
    acting: ActingScaler = ALONE
    """Whether it is this one that makes changes; where others share the cluster, one of them does."""
    targets: Targets | None = None
    bounds: Mapping[Role, Bounds] = {}
    levels: Levels = Levels()
    """Of the latest look."""
    notes: tuple[str, ...] = ()
    """Of the latest look: for each role how many are right, and by which numbers."""
    decided: tuple[Decided, ...] = ()
    """The latest 50, newest last."""
    counts: Mapping[Outcome, int] = {}
    """Since the start."""


class Elastic(Protocol):
    """What carries the changes out: the manager's Elasticity."""

    @property
    def starting(self) -> Mapping[Role, int]: ...

    async def scale(self, wanted: Mapping[Role, int]) -> tuple[Operation, ...]: ...

    async def change_role(self, instance: InstanceId, role: Role) -> Operation: ...


class _Entry(msgspec.Struct, frozen=True, kw_only=True):
    at: float
    change: Change
    decided: Decided


class Autoscaling:
    """Of one cluster manager, on its event loop."""

    def __init__(
        self,
        autoscaler: Autoscaler,
        *,
        mode: AutoscaleMode,
        levels: LevelSource,
        view: Callable[[], ClusterView],
        elasticity: Elastic,
        clock: Clock,
        every_s: float,
        acting: Callable[[], ActingScaler] = lambda: ALONE,
    ) -> None:
        """`acting` tells whether it is its turn, where others share the cluster."""
        self._autoscaler = autoscaler
        self._mode = mode
        self._levels = levels
        self._view = view
        self._elasticity = elasticity
        self._clock = clock
        self._every_s = every_s
        self._acting = acting
        self._latest: deque[_Entry] = deque(maxlen=_KEPT)
        self._counts: Counter[Outcome] = Counter()
        self._seen = Levels()
        self._notes: tuple[str, ...] = ()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """It looks for the length of the block."""
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self._keep_looking(), name="autoscaler")
            try:
                yield
            finally:
                task.cancel()

    def report(self) -> AutoscalerReport:
        rules, now = self._autoscaler.rules, self._clock.now()
        return AutoscalerReport(
            mode=self._mode,
            acting=self._acting(),
            targets=rules.targets,
            bounds=rules.bounds,
            levels=self._seen,
            notes=self._notes,
            decided=tuple(msgspec.structs.replace(e.decided, seconds_ago=now - e.at) for e in self._latest),
            counts=dict(self._counts),
        )

    async def look(self) -> None:
        """Once: decide, and propose or make it; who is not to act only follows, so as to be able to go on."""
        self._seen = self._levels.now()
        seen = Observation(view=self._view(), levels=self._seen, starting=self._elasticity.starting)
        verdict = self._autoscaler.decide(seen)
        self._notes = verdict.notes
        for change in verdict.changes:
            is_its_turn = self._mode is AutoscaleMode.PROPOSE or self._acting().is_here
            if is_its_turn and not self._is_known(change):
                await self._act(change)

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            await self.look()

    def _is_known(self, change: Change) -> bool:
        """It was proposed or refused a short while ago, and stays so."""
        recent = self._clock.now() - max(self._autoscaler.rules.cool_down_s, self._every_s)
        return any(_kind(entry.change) == _kind(change) for entry in self._latest if entry.at > recent)

    async def _act(self, change: Change) -> None:
        if self._mode is AutoscaleMode.PROPOSE:
            self._note(change, Outcome.PROPOSED)
            return
        try:
            operations = await self._make(change)
        except (ConfigError, InstanceUnavailable) as error:
            self._note(change, Outcome.REFUSED, reason=str(error))
            return
        self._autoscaler.changed(change)
        self._note(change, Outcome.MADE, operations=operations)

    async def _make(self, change: Change) -> tuple[int, ...]:
        if isinstance(change, Resize):
            return tuple(operation.id for operation in await self._elasticity.scale({change.role: change.after}))
        return ((await self._elasticity.change_role(change.instance, change.after)).id,)

    def _note(self, change: Change, outcome: Outcome, *, operations: tuple[int, ...] = (), reason: str = "") -> None:
        _log.warning("autoscaler: %s: %s%s", outcome, change, f"; {reason}" if reason else "")
        decided = Decided(seconds_ago=0.0, change=str(change), outcome=outcome, operations=operations, reason=reason)
        self._latest.append(_Entry(at=self._clock.now(), change=change, decided=decided))
        self._counts[outcome] += 1

    def __repr__(self) -> str:
        return f"Autoscaling({self._mode}, {self._autoscaler})"


def _kind(change: Change) -> tuple[str, ...]:
    """What makes a change the same as another one, whatever the numbers behind it."""
    if isinstance(change, Resize):
        return (change.role, str(change.before), str(change.after))
    return (change.instance, change.before, change.after)

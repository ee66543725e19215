"""How instances get started and ended: what the cluster manager asks of whoever does it. Owns no behaviour."""

from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from memserve.core.ids import InstanceId
from memserve.manager.launch_plan import LaunchSpec


class InstanceEnded(msgspec.Struct, frozen=True, kw_only=True):
    """An instance ended that nobody had stopped."""

    instance: InstanceId
    why: str
    """For an operator: the reason from its log, and where that is."""
    restart_in_s: float | None
    """None: it is given up."""
    num_restarts: int
    """In a row, the coming one included."""


EndListener = Callable[[InstanceEnded], None]
"""Called in the event loop; must not block."""


class Launcher(Protocol):
    """Runs instances until they are stopped, and starts those again that end by themselves."""

    @property
    def specs(self) -> Mapping[InstanceId, LaunchSpec]:
        """Those that run or will be started again."""
        ...

    async def start(self, spec: LaunchSpec) -> None:
        """Start one. Raises ConfigError when that cannot be done, or when its name runs already."""
        ...

    async def stop(self, instance: InstanceId) -> None:
        """End it, gently at first, and for good; returns when it is gone. Nothing happens for one not of here."""
        ...

    def fence(self, instance: InstanceId) -> None:
        """End it at once, without a chance to do anything more; then it is started again as after any end."""
        ...

    async def close(self) -> None:
        """Stop all, within 10 s. Idempotent."""
        ...

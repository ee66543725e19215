"""What is still under way out of each instance and into each, of the transfers that the scheduler ordered.

Owns one point in time per end: when it will be free again, as predicted. A transfer that ends sooner or never
begins makes the picture wrong for as long as it was predicted to take, and no longer. Bounded by the instances.
"""

from memserve.core.clock import Clock
from memserve.core.ids import InstanceId


class PathQueues:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._out_until: dict[InstanceId, float] = {}
        self._in_until: dict[InstanceId, float] = {}
        self._all_until = float("-inf")

    def are_free(self) -> bool:
        """No transfer is under way anywhere."""
        return self._all_until <= self._clock.now()

    def wait_s(self, source: InstanceId, target: InstanceId | None = None) -> float:
        """Until a transfer between them can begin; out of `source` to nobody in particular without a target."""
        until = self._out_until.get(source, 0.0)
        if target is not None:
            until = max(until, self._in_until.get(target, 0.0))
        return max(until - self._clock.now(), 0.0)

    def begin(self, source: InstanceId, target: InstanceId, seconds: float) -> None:
        """A transfer was ordered that takes so long by itself."""
        until = self._clock.now() + self.wait_s(source, target) + seconds
        self._out_until[source] = self._in_until[target] = until
        self._all_until = max(self._all_until, until)

    def forget(self, instance: InstanceId) -> None:
        self._out_until.pop(instance, None)
        self._in_until.pop(instance, None)

    def __repr__(self) -> str:
        return f"PathQueues({len(self._out_until)} senders)"

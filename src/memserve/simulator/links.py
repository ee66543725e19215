"""Transfers between modelled instances: one after the other out of each instance and into each.

Owns when each end is free again. A transfer takes the latency and the bytes over the bandwidth of the profile's
path "peer", or of "memory" where one end is a memory instance, after whatever its two ends are still busy with.
"""

from memserve.core.ids import InstanceId
from memserve.scheduler.cost_model import CostModel

PEER = "peer"
_MEMORY = "memory"


class Links:
    def __init__(self, cost: CostModel, *, memory: InstanceId) -> None:
        """A profile without a path "memory" has the same for all."""
        self._cost = cost
        self._memory = memory
        self._memory_path = _MEMORY if _MEMORY in cost.profile.paths else PEER
        self._out_until: dict[InstanceId, float] = {}
        self._in_until: dict[InstanceId, float] = {}

    def send(self, *, source: InstanceId, target: InstanceId, num_bytes: float, at_s: float) -> float:
        """When the bytes have arrived that are sent from `at_s` on; at once when there are none."""
        if not num_bytes:
            return at_s
        begins = max(at_s, self._out_until.get(source, 0.0), self._in_until.get(target, 0.0))
        ends = begins + self.seconds(source=source, target=target, num_bytes=num_bytes)
        self._out_until[source] = self._in_until[target] = ends
        return ends

    def seconds(self, *, source: InstanceId, target: InstanceId, num_bytes: float) -> float:
        """With nothing else under way."""
        return self._cost.transfer_s(num_bytes, self._memory_path if self._memory in {source, target} else PEER)

    def __repr__(self) -> str:
        return f"Links({len(self._out_until)} senders)"

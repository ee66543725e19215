"""What full pools give to a memory instance, as instance/offload.py does it: between two marks, one run at a time.

Owns who is giving at the moment. The bytes take their time on the links; only then is the run dropped by its owner.
"""

from collections.abc import Callable

from memserve.core.ids import InstanceId
from memserve.pool.cold import ColdRun
from memserve.simulator.engine import ModelledInstance

Send = Callable[[ModelledInstance, ModelledInstance, int, Callable[[], None]], None]
"""From whom, to whom, how many blocks, and what to do when they have arrived."""
Announce = Callable[[ModelledInstance], None]


class Offloads:
    """To one memory instance."""

    def __init__(self, memory: ModelledInstance, *, send: Send, announce: Announce) -> None:
        self._memory = memory
        self._send = send
        self._announce = announce
        self._giving: set[InstanceId] = set()
        self._num_given = 0

    def look(self, instance: ModelledInstance) -> None:
        """Its pool has changed."""
        if instance is self._memory or instance.instance in self._giving:
            return
        found = instance.pool.coldest()
        if found is None:
            return
        run, blocks = found
        self._giving.add(instance.instance)
        num_lacking = len(blocks) - self._memory.pool.fetch(blocks)
        self._send(instance, self._memory, num_lacking, lambda: self._given(instance, run, blocks))

    def _given(self, instance: ModelledInstance, run: ColdRun, blocks: tuple[int, ...]) -> None:
        self._giving.discard(instance.instance)
        self._num_given += len(run.blocks)
        self._memory.pool.store(blocks)
        self._announce(self._memory)
        instance.pool.drop(run)
        self._announce(instance)

    def __repr__(self) -> str:
        return f"Offloads({self._num_given} blocks given)"

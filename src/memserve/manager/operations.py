"""Changes of the cluster that take their time, as an operator follows them: what, how far, how it ended.

Owns the latest of them and their numbers. Starts nothing: whoever carries one out tells how far it is.
"""

from enum import StrEnum

import msgspec

from memserve.core.ids import InstanceId

_KEPT = 256


class OperationState(StrEnum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class OperationKind(StrEnum):
    START = "start"
    DRAIN = "drain"
    ROLE = "role"


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    kind: OperationKind
    instance: InstanceId
    state: OperationState = OperationState.RUNNING
    step: str = ""
    """What is going on, or how it ended, for a person."""


class Operations:
    """Those of one cluster manager."""

    def __init__(self) -> None:
        self._operations: dict[int, Operation] = {}
        self._last = 0

    def begin(self, kind: OperationKind, instance: InstanceId, step: str) -> Operation:
        """The oldest one beyond the latest 256 that has ended is forgotten."""
        self._last += 1
        self._operations[self._last] = Operation(id=self._last, kind=kind, instance=instance, step=step)
        ended = [o.id for o in self._operations.values() if o.state is not OperationState.RUNNING]
        for number in ended[: max(0, len(self._operations) - _KEPT)]:
            del self._operations[number]
        return self._operations[self._last]

    def tell(self, operation: Operation, step: str, state: OperationState = OperationState.RUNNING) -> Operation:
        """How far it is; gives it back as it is now."""
        told = msgspec.structs.replace(operation, step=step, state=state)
        self._operations[operation.id] = told
        return told

    def running(self, kind: OperationKind, instance: InstanceId) -> Operation | None:
        """The one of this kind that is under way for this instance."""
        found = [o for o in self._operations.values() if (o.kind, o.instance) == (kind, instance)]
        return found[-1] if found and found[-1].state is OperationState.RUNNING else None

    def find(self, number: int) -> Operation | None:
        return self._operations.get(number)

    def latest(self) -> tuple[Operation, ...]:
        """Newest last."""
        return tuple(self._operations.values())

    def __repr__(self) -> str:
        running = sum(o.state is OperationState.RUNNING for o in self._operations.values())
        return f"Operations({running} running of {len(self._operations)})"

"""How many requests each instance has been given and has not finished: what bounds an instance's queue.

Owns the counts, by request, so that deciding again or ending twice changes nothing. Pure.
"""

from collections import Counter

from memserve.core.ids import InstanceId, RequestId


class Occupancy:
    """One for all requests of a gateway."""

    def __init__(self, *, limit: int) -> None:
        """`limit`: requests for each instance at once."""
        self._limit = limit
        self._taken: dict[RequestId, tuple[InstanceId, ...]] = {}
        self._counts: Counter[InstanceId] = Counter()

    def take(self, request: RequestId, *instances: InstanceId) -> None:
        """The request works on these; on others that it was given before it does not any more."""
        self.drop(request)
        self._taken[request] = tuple(dict.fromkeys(instances))
        self._counts.update(self._taken[request])

    def drop(self, request: RequestId) -> None:
        """The request is over. Idempotent."""
        for instance in self._taken.pop(request, ()):
            self._counts[instance] -= 1
            if not self._counts[instance]:
                del self._counts[instance]

    def full(self) -> frozenset[InstanceId]:
        """Instances that have all they may have."""
        return frozenset(instance for instance, count in self._counts.items() if count >= self._limit)

    def __repr__(self) -> str:
        return f"Occupancy({dict(self._counts)} of {self._limit} each)"

"""How many retries a gateway may make, so that a fault of the cluster does not become a storm of work.

Owns the account. Each request that comes pays in a fraction of a retry, each retry takes one out. The reserve is
for the death of an instance, when all that it worked on goes elsewhere at once. Pure.
"""


class RetryBudget:
    """Starts full. One for all requests of a gateway."""

    def __init__(self, *, ratio: float, reserve: int) -> None:
        """`ratio`: retries that a request pays in; `reserve`: the most that can be saved up."""
        self._ratio = ratio
        self._reserve = float(reserve)
        self._saved = self._reserve

    @property
    def num_left(self) -> int:
        return int(self._saved)

    def request_came(self) -> None:
        self._saved = min(self._reserve, self._saved + self._ratio)

    def take(self) -> bool:
        """Whether one more retry may be made; then it is paid for."""
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        return True

    def __repr__(self) -> str:
        return f"RetryBudget({self._saved:.1f}/{self._reserve:g})"

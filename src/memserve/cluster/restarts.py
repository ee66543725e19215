"""Whether and when an instance that ended is started again. Decides from how long it ran; starts nothing.

The wait doubles from end to end up to a cap, so that one that cannot run does not keep the machine busy, and a
long run counts as a recovery: the next end is the first again.
"""

import msgspec


class RestartRules(msgspec.Struct, frozen=True, kw_only=True):
    max_restarts: int = 5
    """In a row, without a stable run between; 0 never restarts."""
    first_wait_s: float = 1.0
    longest_wait_s: float = 60.0
    stable_s: float = 300.0
    """A run as long as this, loading the model included, was none of the failures in a row."""


class Restarts:
    """The ends of one instance."""

    def __init__(self, rules: RestartRules) -> None:
        self._rules = rules
        self._num_in_row = 0

    @property
    def num_in_row(self) -> int:
        """Restarts since the last stable run."""
        return self._num_in_row

    def ended(self, *, ran_s: float) -> float | None:
        """Seconds to wait before it is started again; None: it is given up."""
        if ran_s >= self._rules.stable_s:
            self._num_in_row = 0
        if self._num_in_row >= self._rules.max_restarts:
            return None
        wait_s = min(self._rules.longest_wait_s, self._rules.first_wait_s * 2.0**self._num_in_row)
        self._num_in_row += 1
        return wait_s

    def __repr__(self) -> str:
        return f"Restarts({self._num_in_row} of {self._rules.max_restarts})"

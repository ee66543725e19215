"""Tokens of one request on their way into the own pool's DRAM, before the request is computed.

Lifecycle: under way -> settled (there | failed | given up after `wait_s`). Never blocks: whoever needs the answer
comes back for it.
"""

from concurrent.futures import Future

from memserve.core.clock import Clock


class Awaited:
    """One future number of tokens, and how long it is worth waiting for."""

    def __init__(self, arrived: "Future[int]", *, clock: Clock, wait_s: float) -> None:
        self._arrived = arrived
        self._started = clock.now()
        self._deadline = self._started + wait_s

    def is_settled(self, now: float) -> bool:
        """It is here or will not come, or waiting longer is not worth it."""
        return self._arrived.done() or now >= self._deadline

    @property
    def num_tokens(self) -> int:
        """What has come so far; 0 when it failed."""
        done = self._arrived.done() and not self._arrived.cancelled() and self._arrived.exception() is None
        return self._arrived.result() if done else 0

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._arrived})"

"""A background thread that copies blocks, so that the forward never waits for a save.

Lifecycle: start -> submit* -> close. Loads go before sends, sends before saves; within a kind the
order of submission holds, which lets the last job of a transfer carry its commit. A task that
raises is reported as failed to its callback and harms no other.
"""

import itertools
import logging
import queue
import threading
from collections.abc import Callable

logger = logging.getLogger(__name__)

Task = Callable[[], None]
OnEnd = Callable[[BaseException | None], None]

MAX_PENDING = 65_536


class BlockCopier:
    """One thread, one bounded priority queue. Safe to call from any thread."""

    def __init__(self, name: str) -> None:
        self._queue: queue.PriorityQueue[tuple[int, int, Task | None, OnEnd]] = queue.PriorityQueue(MAX_PENDING)
        self._order = itertools.count()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, task: Task, *, priority: int, on_end: OnEnd) -> None:
        """Run `task` after those of smaller priority number; then `on_end(None)` or `on_end(error)`.

        Blocks the caller while MAX_PENDING tasks wait: copying is then the bottleneck.
        """
        self._queue.put((priority, next(self._order), task, on_end))

    def settle(self) -> None:
        """Return when everything submitted so far has ended."""
        self._queue.join()

    def close(self) -> None:
        """End after the tasks already submitted. Idempotent."""
        if self._thread.is_alive():
            self._queue.put((1 << 30, next(self._order), None, _ignore))
            self._thread.join()

    def _run(self) -> None:
        while True:
            _, _, task, on_end = self._queue.get()
            if task is None:
                self._queue.task_done()
                return
            error: BaseException | None = None
            try:
                task()
            except Exception as raised:
                logger.exception("copying KV blocks failed; the request recomputes instead")
                error = raised
            on_end(error)
            self._queue.task_done()


def _ignore(_: BaseException | None) -> None:
    """The closing marker has nobody to tell."""

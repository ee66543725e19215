"""How a run ends from outside: the first SIGINT or SIGTERM winds it up, a second SIGINT ends it at once.

Owns the handlers of both signals; the HTTP server leaves them alone. Ending at once is safe: the guards above the
instances notice that this process is gone and end them.
"""

import asyncio
import os
import signal

_AT_ONCE = 130


class StopSignals:
    """Cancels one task when asked to stop; made and used inside the event loop."""

    def __init__(self, task: asyncio.Task[object]) -> None:
        self._task = task
        self._received: signal.Signals | None = None

    @classmethod
    def of_this_task(cls) -> "StopSignals":
        """Handlers in place for the running task. Raises RuntimeError outside of one."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("StopSignals belong to a running task")
        signals = cls(task)
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, signals._heard, number)
        return signals

    @property
    def asked_to_stop(self) -> bool:
        return self._received is not None

    def _heard(self, number: signal.Signals) -> None:
        if self._received is None:
            self._received = number
            self._task.cancel()
        elif number is signal.SIGINT:
            os._exit(_AT_ONCE)

    def __repr__(self) -> str:
        return f"StopSignals(received={self._received!r})"

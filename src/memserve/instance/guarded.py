"""A word from an instance to the guard above it, if it has one: it is dismissed, and may be ended.

The guard follows only when nobody else is left to end its instance: whoever started it is gone.
"""

import os
import signal

GUARD = "MEMSERVE_GUARD"
"""Environment variable with the guard's process id, set by the guard."""


def tell_guard() -> None:
    """Does nothing where there is no guard. May be said again and again."""
    guard = os.environ.get(GUARD, "")
    if guard.isdecimal():
        try:
            os.kill(int(guard), signal.SIGUSR2)
        except ProcessLookupError:
            return  # it has ended, and its instance with it

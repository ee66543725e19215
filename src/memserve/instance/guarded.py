"""Words from an instance to the guard above it, if it has one: it is dismissed, or must not go on.

A dismissed one is ended by its guard only when nobody else is left to do so: whoever started it is gone. One that
was taken for dead is killed at once, whatever it does at that moment; its supervisor starts it again.
"""

import logging
import os
import signal

GUARD = "MEMSERVE_GUARD"
"""Environment variable with the guard's process id, set by the guard."""
_log = logging.getLogger(__name__)


def tell_guard() -> None:
    """Dismissed. Does nothing where there is no guard. May be said again and again."""
    _signal_guard(signal.SIGUSR2)


def be_killed() -> None:
    """Taken for dead: end this process before it writes where others write now. Without a guard it is only told."""
    if not _signal_guard(signal.SIGUSR1):
        _log.critical("this instance is out of its cluster for good: start it again to have it back")


def _signal_guard(number: signal.Signals) -> bool:
    guard = os.environ.get(GUARD, "")
    if not guard.isdecimal():
        return False
    try:
        os.kill(int(guard), number)
    except ProcessLookupError:
        return False
    return True

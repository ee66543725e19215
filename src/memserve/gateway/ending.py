"""Work that others may end: a deadline, an instance that left, a client that hung up.

Owns the one way in which a request's work is cut short from outside. A Scope covers a stretch of one
task; whoever ends it says why, and that error is raised at the end of the stretch, after its clean-up.

    open -> (ended with a reason | deadline) -> closed      ending a closed scope does nothing
"""

import asyncio
from types import TracebackType

from memserve.core.errors import DeadlineExceeded, MemserveError


class Scope:
    """Handle on a stretch of work; ends it at most once."""

    def __init__(self, timeout: asyncio.Timeout) -> None:
        self._timeout = timeout
        self._reason: MemserveError | None = None
        self._open = True

    @property
    def reason(self) -> MemserveError | None:
        return self._reason

    def end(self, reason: MemserveError) -> None:
        """Cancel the work; the first reason counts."""
        if self._open and self._reason is None:
            self._reason = reason
            self._timeout.reschedule(asyncio.get_running_loop().time())

    def close(self) -> None:
        self._open = False

    def __repr__(self) -> str:
        return f"Scope({'open' if self._open else 'closed'}, reason={self._reason!r})"


class scope:  # noqa: N801 - used as a context manager and nothing else
    """Run the block until it is done, ended or `deadline_s` seconds have passed; gives its Scope.

    Raises the reason it was ended for, or DeadlineExceeded.
    """

    __slots__ = ("_deadline_s", "_handle", "_timeout")

    def __init__(self, *, deadline_s: float | None = None) -> None:
        self._deadline_s = deadline_s

    async def __aenter__(self) -> Scope:
        self._timeout = asyncio.timeout(self._deadline_s)
        self._handle = Scope(self._timeout)
        await self._timeout.__aenter__()
        return self._handle

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._handle.close()
        try:
            await self._timeout.__aexit__(kind, error, traceback)
        except TimeoutError as late:
            raise self._handle.reason or DeadlineExceeded(f"not done within {self._deadline_s:g} s") from late

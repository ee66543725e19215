"""Waiting for a condition in tests: woken by changes, bounded by a deadline, no sleeping and looking again."""

import asyncio
from collections.abc import Callable


class Changes:
    """Whoever changes something calls `happened`; whoever waits for a state calls `until`."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    def happened(self) -> None:
        self._changed.set()

    async def until(self, condition: Callable[[], bool], *, deadline_s: float = 10.0) -> None:
        """Raises TimeoutError when the condition does not come true."""
        async with asyncio.timeout(deadline_s):
            while not condition():
                await self._changed.wait()
                self._changed.clear()

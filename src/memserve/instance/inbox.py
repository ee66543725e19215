"""Transfers that have arrived, for the application above the pool to take in order.

Bounded: when nobody takes them, the oldest notice is dropped and counted; its blocks are not touched.
"""

import threading
from collections import deque

from memserve.instance.records import Received


class Inbox:
    """Thread-safe queue of Received."""

    def __init__(self, *, max_notices: int = 1024, max_bytes: int = 64 << 20) -> None:
        """`max_bytes` bounds the private data of all waiting notices together."""
        self._notices: deque[Received] = deque()
        self._max_notices = max_notices
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._arrived = threading.Condition()
        self._num_dropped = 0

    @property
    def num_dropped(self) -> int:
        return self._num_dropped

    def put(self, notice: Received) -> None:
        with self._arrived:
            self._notices.append(notice)
            self._num_bytes += len(notice.private)
            while len(self._notices) > self._max_notices or self._num_bytes > self._max_bytes:
                self._pop()
                self._num_dropped += 1
            self._arrived.notify()

    def take(self, *, deadline_s: float) -> Received | None:
        """The oldest notice, waiting up to `deadline_s` for one; None when none came."""
        with self._arrived:
            self._arrived.wait_for(lambda: bool(self._notices), timeout=deadline_s)
            return self._pop() if self._notices else None

    def _pop(self) -> Received:
        notice = self._notices.popleft()
        self._num_bytes -= len(notice.private)
        return notice

    def __repr__(self) -> str:
        return f"Inbox({len(self._notices)} waiting, {self._num_dropped} dropped)"

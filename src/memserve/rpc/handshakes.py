"""Whether a client's connection is let in: the handshakes of one socket, watched.

Owns the monitor of that socket. A client whose secret is another's would only see silence: libzmq tries again
for ever and says nothing.

    built, before the socket connects -> start -> watching -> close, before the socket is closed
"""

import asyncio
from collections.abc import Callable
from typing import Any

from zmq.constants import Event
from zmq.utils.monitor import recv_monitor_message

_MAX_BROKEN = 3
"""Handshakes in a row that break off: one alone may be a server that was just ending."""
_REFUSED = Event.HANDSHAKE_FAILED_PROTOCOL | Event.HANDSHAKE_FAILED_AUTH


class Handshakes:
    """Of one client socket."""

    def __init__(self, socket: Any, refused: Callable[[], None], *, is_sealed: bool) -> None:
        """`refused` is called when the server does not take what this side shows; `is_sealed`: it shows a secret."""
        self._socket = socket
        self._refused = refused
        self._is_sealed = is_sealed
        events = _REFUSED | Event.HANDSHAKE_FAILED_NO_DETAIL | Event.HANDSHAKE_SUCCEEDED
        self._monitor = socket.get_monitor_socket(events)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Inside the event loop."""
        self._task = asyncio.create_task(self._watch(), name="handshakes")

    async def _watch(self) -> None:
        num_broken = 0
        while True:
            event = (await recv_monitor_message(self._monitor))["event"]
            num_broken = num_broken + 1 if event == Event.HANDSHAKE_FAILED_NO_DETAIL else 0
            if event & _REFUSED or (self._is_sealed and num_broken >= _MAX_BROKEN):
                self._refused()
                num_broken = 0

    def close(self) -> None:
        """Idempotent."""
        if self._task is not None:
            self._task.cancel()
        if not self._monitor.closed:
            self._socket.disable_monitor()
            self._monitor.close(linger=0)

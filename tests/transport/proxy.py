"""A TCP proxy that does to a connection what networks do: cuts it, stops half-way, hands over crumbs, flips a bit.

Real sockets on loopback. The fault strikes at one byte of one direction of each connection, all else passes.
"""

import contextlib
import socket
import threading
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    NONE = "none"
    CUT = "cut"
    """The connection ends after `after` bytes."""
    STALL = "stall"
    """Nothing passes any more after `after` bytes, the connection stays."""
    FLIP = "flip"
    """One bit of the byte after `after` bytes changes."""
    CRUMBS = "crumbs"
    """Bytes pass a few at a time."""


class Direction(StrEnum):
    TO_SERVER = "to-server"
    TO_CLIENT = "to-client"


@dataclass(frozen=True)
class Fault:
    kind: Kind
    direction: Direction = Direction.TO_SERVER
    after: int = 0

    def __str__(self) -> str:
        return f"{self.kind}-{self.direction}-{self.after}"


class FaultyProxy:
    """Listens on loopback and passes on to `target`, tcp://HOST:PORT."""

    def __init__(self, target: str, fault: Fault) -> None:
        host, port = target.removeprefix("tcp://").split(":")
        self._target = host, int(port)
        self.fault = fault
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self.stalled = threading.Event()
        """Set when a connection has reached the place where nothing passes any more."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._start(self._accept)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut_all()
        for thread in self._threads:
            thread.join()
        for one in self._sockets:
            one.close()

    def cut_all(self) -> None:
        """End every connection that is open."""
        with self._lock:
            for one in self._sockets:
                _shut(one)

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            with self._lock:
                self._sockets |= {client, server}
            self._start(self._pass_on, client, server, Direction.TO_SERVER)
            self._start(self._pass_on, server, client, Direction.TO_CLIENT)

    def _pass_on(self, source: socket.socket, target: socket.socket, direction: Direction) -> None:
        fault = self.fault if self.fault.direction is direction else Fault(Kind.NONE)
        num_passed = 0
        is_stalled = False
        while True:
            try:
                data = source.recv(997 if fault.kind is Kind.CRUMBS else 1 << 16)
                if not data:
                    break
                at = fault.after - num_passed
                if fault.kind is Kind.FLIP and 0 <= at < len(data):
                    data = data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]
                if fault.kind in {Kind.CUT, Kind.STALL} and at < len(data):
                    data, is_stalled = data[: max(at, 0)], fault.kind is Kind.STALL
                    target.sendall(data)
                    if not is_stalled:
                        break
                    self.stalled.set()
                    num_passed = fault.after
                    continue
                target.sendall(data)
                num_passed += len(data)
            except OSError:
                break
        with self._lock:
            for one in (source, target):
                _shut(one)


def _shut(one: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the other end was faster
        one.shutdown(socket.SHUT_RDWR)

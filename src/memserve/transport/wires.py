"""What a FramedSocket reads from and writes to: a plain socket, or one with TLS. Both look ahead one byte.

Owns the socket it is given. Not thread-safe, but `shut` may come from any thread and ends what waits.
"""

import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol


class Wire(Protocol):
    """All calls raise OSError when the connection fails, TimeoutError when nothing moves in time."""

    def shake_hands(self, *, seconds: float) -> None:
        """Until each end knows the other, in this time altogether; nothing where nobody asks."""
        ...

    def send(self, parts: Sequence[memoryview]) -> int:
        """Some of the bytes, from the beginning; how many."""
        ...

    def read_into(self, parts: Sequence[memoryview]) -> int:
        """Fill some of the parts, from the beginning; how many bytes, 0 at the end of the connection."""
        ...

    def look(self, *, seconds: float) -> bool | None:
        """Whether the next byte is there; False after the end of the connection, None when nothing came in time."""
        ...

    def set_timeout(self, seconds: float) -> None: ...

    def shut(self) -> None: ...

    def close(self) -> None: ...


class PlainWire:
    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def shake_hands(self, *, seconds: float) -> None:
        """A plain connection has none."""

    def send(self, parts: Sequence[memoryview]) -> int:
        return self._socket.sendmsg(parts)

    def read_into(self, parts: Sequence[memoryview]) -> int:
        return self._socket.recvmsg_into(parts)[0]

    def look(self, *, seconds: float) -> bool | None:
        self._socket.settimeout(seconds)
        try:
            return bool(self._socket.recv(1, socket.MSG_PEEK))
        except (BlockingIOError, TimeoutError):
            return None

    def set_timeout(self, seconds: float) -> None:
        self._socket.settimeout(seconds)

    def shut(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()


class TlsWire:
    """A server's handshake is its own step, so it waits for nobody else's thread."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self._socket = sock
        self._ahead = b""

    def shake_hands(self, *, seconds: float) -> None:
        self._socket.settimeout(seconds)
        self._socket.do_handshake()

    def send(self, parts: Sequence[memoryview]) -> int:
        return self._socket.send(parts[0])

    def read_into(self, parts: Sequence[memoryview]) -> int:
        if self._ahead:
            parts[0][:1], self._ahead = self._ahead, b""
            return 1
        return self._socket.recv_into(parts[0])

    def look(self, *, seconds: float) -> bool | None:
        if self._ahead:
            return True
        self._socket.settimeout(seconds)
        try:
            self._ahead = self._socket.recv(1)
        except (ssl.SSLWantReadError, TimeoutError):
            return None
        return bool(self._ahead)

    def set_timeout(self, seconds: float) -> None:
        self._socket.settimeout(seconds)

    def shut(self) -> None:
        socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # TLS's own would take the session away from its user

    def close(self) -> None:
        self._socket.close()


def wire_on(sock: socket.socket) -> Wire:
    """For whatever kind of socket it is. What stays on this host is sent as fast as it is taken."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _do_not_pace_on_one_host(sock)
    return TlsWire(sock) if isinstance(sock, ssl.SSLSocket) else PlainWire(sock)


def _do_not_pace_on_one_host(sock: socket.socket) -> None:
    """BBR, the default of many hosts, takes the pauses between blocks for a slow network, which one host has not.

    Reno is part of every Linux; where it is refused, or the peer has gone already, all stays as it is.
    """
    with suppress(OSError):
        if sock.getpeername()[0] == sock.getsockname()[0]:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")

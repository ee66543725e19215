"""Data connections that this instance has opened: several an endpoint, kept a while for the next use.

Owns the sockets. A connection is lent to one user at a time; one that failed is never used again. At most
`max_idle` wait, the longest idle goes first. Thread-safe. Lifecycle: borrow* -> close (ends what is lent).
"""

import socket
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from memserve.config import LOOPBACK, Network
from memserve.core.clock import Clock
from memserve.core.errors import InstanceUnavailable
from memserve.transport.framed_socket import FramedSocket, TcpLimits
from memserve.transport.tls import client_context


class Connections:
    """Lends FramedSockets."""

    def __init__(self, *, limits: TcpLimits, clock: Clock, network: Network = LOOPBACK, max_idle: int = 16) -> None:
        """As `network` says, only encrypted connections are made or only plain ones. Raises ConfigError."""
        self._tls = client_context(network)
        self._limits = limits
        self._clock = clock
        self._max_idle = max_idle
        self._idle: deque[tuple[str, float, FramedSocket]] = deque()
        self._lent: set[FramedSocket] = set()
        self._lock = threading.Lock()
        self._is_closed = False

    @contextmanager
    def borrow(self, endpoint: str) -> Iterator[FramedSocket]:
        """A connection to tcp://HOST:PORT. Raises InstanceUnavailable when there is none to be had."""
        framed = self._find_idle(endpoint) or self._connect(endpoint)
        with self._lock:
            self._lent.add(framed)
            if self._is_closed:
                framed.shut()
        is_fit = False
        try:
            yield framed
            is_fit = True
        finally:
            self._give_back(endpoint, framed, is_fit=is_fit)

    def speaks_to(self, endpoint: str) -> bool:
        """Whether both ends want TLS, or neither does."""
        return endpoint.startswith(self._scheme)

    @property
    def _scheme(self) -> str:
        return "tcp://" if self._tls is None else "tls://"

    def close(self) -> None:
        """Idempotent; users of what is lent get InstanceUnavailable."""
        with self._lock:
            self._is_closed = True
            for framed in self._lent:
                framed.shut()
            idle, self._idle = self._idle, deque()
        for _, _, framed in idle:
            framed.close()

    def _find_idle(self, endpoint: str) -> FramedSocket | None:
        oldest = self._clock.now() - self._limits.idle_s / 2
        unfit: list[FramedSocket] = []
        found = None
        with self._lock:
            for entry in reversed(tuple(self._idle)):
                name, since, framed = entry
                if since < oldest:
                    self._idle.remove(entry)
                    unfit.append(framed)
                elif name == endpoint and found is None:
                    self._idle.remove(entry)
                    found = framed
        for framed in unfit:
            framed.close()
        if found is not None and not found.is_quiet:
            found.close()
            return self._find_idle(endpoint)
        return found

    def _connect(self, endpoint: str) -> FramedSocket:
        host, _, port = endpoint.removeprefix(self._scheme).rpartition(":")
        if not self.speaks_to(endpoint) or not host or not port.isdecimal():
            raise InstanceUnavailable(
                f'"{endpoint}" is no data endpoint for this instance: expected {self._scheme}HOST:PORT; '
                "have TLS on all instances or on none"
            )
        try:
            sock: socket.socket = socket.create_connection(
                (host.strip("[]"), int(port)), timeout=self._limits.connect_s
            )
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock)
        except (OSError, OverflowError) as error:
            raise InstanceUnavailable(f"no data connection to {endpoint}: {error}") from error
        return FramedSocket(sock, peer=endpoint, limits=self._limits, clock=self._clock)

    def _give_back(self, endpoint: str, framed: FramedSocket, *, is_fit: bool) -> None:
        unfit = [] if is_fit else [framed]
        with self._lock:
            self._lent.discard(framed)
            if is_fit and not self._is_closed:
                self._idle.append((endpoint, self._clock.now(), framed))
            elif is_fit:
                unfit.append(framed)
            if len(self._idle) > self._max_idle:
                unfit.append(self._idle.popleft()[2])
        for one in unfit:
            one.close()

    def __repr__(self) -> str:
        with self._lock:
            return f"Connections({len(self._lent)} in use, {len(self._idle)} idle)"

"""An ASGI app on an address: start, tell the port, stop gracefully.

Owns the listening socket and no signal handlers: who runs the process decides when to stop. When the block
of `running` is left it takes no new connections, gives requests in progress GRACE_S seconds and closes.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager, contextmanager
from enum import StrEnum

import uvicorn
from starlette.types import ASGIApp

from memserve.core.errors import ConfigError
from memserve.security.https import ServerCertificate

GRACE_S = 10
_BACKLOG = 2048


class Sharing(StrEnum):
    """Who else listens at the same address: the kernel deals connections out among all that do (SO_REUSEPORT)."""

    ALONE = "alone"
    FIRST = "first"
    """Nobody yet; others of the same user may join."""
    JOINS = "joins"


_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2; 1.3 has good ones only, and before 1.2 nothing is spoken."""


class _Server(uvicorn.Server):
    """Says when it has started instead of being asked again and again; leaves signals alone."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.has_started = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.has_started.set()

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


@asynccontextmanager
async def running(
    app: ASGIApp,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    certificate: ServerCertificate | None = None,
    sharing: Sharing = Sharing.ALONE,
) -> AsyncIterator[int]:
    """Serve for the length of the block, HTTPS with a certificate; gives the port.

    Raises ConfigError when it cannot start.
    """
    listener = _listen(host, port, sharing)
    bound: int = listener.getsockname()[1]
    server = _Server(_config(app, certificate))
    task = asyncio.create_task(server.serve(sockets=[listener]), name=f"http server {bound}")
    started = asyncio.create_task(server.has_started.wait(), name=f"http server {bound} start")
    try:
        await asyncio.wait({task, started}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            raise ConfigError(f"the server on {host}:{bound} did not start") from task.exception()
        yield bound
    finally:
        started.cancel()
        server.should_exit = True
        await _stopped(task)
        listener.close()


async def _stopped(task: asyncio.Task[None]) -> None:
    """Until the server is down, GRACE_S at most; a cancellation meanwhile takes effect after it."""
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


def _config(app: ASGIApp, certificate: ServerCertificate | None) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # nothing here asks where a client is
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
        ssl_certfile=None if certificate is None else certificate.certfile,
        ssl_keyfile=None if certificate is None else certificate.keyfile,
        ssl_ciphers=_CIPHERS,
    )


def _listen(host: str, port: int, sharing: Sharing) -> socket.socket:
    # asyncio turns Nagle's delay off only for sockets that name their protocol; with it, a stream stalls 40 ms.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if sharing is Sharing.FIRST and port:
            socket.create_server((host, port), family=family).close()  # another cluster's port is not shared
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sharing is not Sharing.ALONE:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        raise ConfigError(f"cannot listen on {host}:{port}: {error}; choose another address") from error
    return listener

"""CURVE on control connections: both ends prove that they know the cluster's secret, and nobody reads along.

All servers of a cluster have one long-term key pair, all clients another, both derived from its secret. A client
talks only to who holds the servers' private key; a server admits only who holds the clients', which its doorman
checks (ZAP, https://rfc.zeromq.org/spec/27/). The keys of each connection are its own and gone with it, so what
was recorded can be neither read later nor sent again (https://rfc.zeromq.org/spec/26/).

A server without its doorman admits nobody.
"""

import asyncio
import hmac
from typing import Any

import zmq
from zmq.constants import SocketOption, SocketType
from zmq.utils import z85

from memserve.core.errors import ConfigError
from memserve.security.secret import ClusterSecret, Purpose

OVERHEAD_BYTES = 1024
"""A message grows by less than this when it is sealed."""
_DOMAIN = b"memserve"
_ZAP_VERSION = b"1.0"


class Doorman:
    """Admits the clients of one cluster to the servers of one ZMQ context.

    Answers libzmq's questions (ZAP requests) from the moment it is built, inside the event loop, until `close`.
    pyzmq's own authenticator for asyncio leaves its poller behind when it stops, which may then disturb another's.
    """

    def __init__(self, context: Any, secret: ClusterSecret) -> None:
        public, _ = _pair(secret, Purpose.RPC_CLIENT)
        self._admitted = z85.decode(public)
        self._socket = context.socket(SocketType.REP)
        self._socket.bind("inproc://zeromq.zap.01")
        self._task = asyncio.create_task(self._answer(), name="doorman")

    async def close(self) -> None:
        """Before the context ends."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._socket.close(linger=0)

    async def _answer(self) -> None:
        while True:
            question = await self._socket.recv_multipart()
            status, text = (b"200", b"OK") if self._admits(question) else (b"400", b"not of this cluster")
            await self._socket.send_multipart([_ZAP_VERSION, question[1], status, text, b"", b""])

    def _admits(self, question: list[bytes]) -> bool:
        """Frames: version, request, domain, address, identity, mechanism, the client's proven public key."""
        if len(question) != 7 or question[0] != _ZAP_VERSION or question[2] != _DOMAIN or question[5] != b"CURVE":
            return False
        return hmac.compare_digest(question[6], self._admitted)


def as_server(socket: Any, secret: ClusterSecret) -> None:
    """Before it is bound, with a Doorman in its context. Raises ConfigError when this libzmq has no CURVE."""
    _, private = _pair(secret, Purpose.RPC_SERVER)
    socket.setsockopt(SocketOption.CURVE_SERVER, 1)
    socket.setsockopt(SocketOption.CURVE_SECRETKEY, private)
    socket.setsockopt(SocketOption.ZAP_DOMAIN, _DOMAIN)
    socket.setsockopt(SocketOption.ZAP_ENFORCE_DOMAIN, 1)


def as_client(socket: Any, secret: ClusterSecret) -> None:
    """Before it is connected. Raises ConfigError when this libzmq has no CURVE."""
    server, _ = _pair(secret, Purpose.RPC_SERVER)
    public, private = _pair(secret, Purpose.RPC_CLIENT)
    socket.setsockopt(SocketOption.CURVE_SERVERKEY, server)
    socket.setsockopt(SocketOption.CURVE_PUBLICKEY, public)
    socket.setsockopt(SocketOption.CURVE_SECRETKEY, private)


def _pair(secret: ClusterSecret, purpose: Purpose) -> tuple[bytes, bytes]:
    """Public and private key."""
    if not zmq.has("curve"):
        raise ConfigError("this build of pyzmq has no CURVE: install one from a wheel, or run without a cluster secret")
    private = z85.encode(secret.derive(purpose))
    return zmq.curve_public(private), private

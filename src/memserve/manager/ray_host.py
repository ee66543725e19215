"""What runs beside an instance on a node of a Ray cluster: starts it under a guard, waits for it, ends it.

Owns one child (child.py); the guard ends the instance when this process goes, as it does when its node's Ray, its
driver or the whole Ray cluster ends. Ray makes an actor of the class. All that goes between it and
its launcher is plain text and numbers, structures as JSON.

    place -> run (returns when the instance has ended) ; stop and kill at any time
"""

import socket
import sys

import msgspec

from memserve.core.errors import ConfigError
from memserve.manager.child import Child, certified, start
from memserve.manager.launch_plan import LaunchSpec
from memserve.manager.machine import Machine
from memserve.security.secret import read_secret

_NOT_STARTED = 127
"""As a shell says it."""


class HostPlace(msgspec.Struct, frozen=True, kw_only=True):
    """Where an instance on this node may listen, and with what it runs."""

    node: str
    """Address of the node."""
    host: str
    port: int
    """Free on `host` when asked."""
    python: str


class HostedEnd(msgspec.Struct, frozen=True, kw_only=True):
    exit_code: int
    why: str


class InstanceHost:
    """One instance, once."""

    def __init__(self) -> None:
        self._child: Child[LaunchSpec] | None = None

    async def place(self, host: str) -> str:
        """Where an instance may listen on this host, or on the node's own address where `host` is ""; as JSON."""
        import ray  # noqa: PLC0415 - only ever called inside Ray

        node = ray.util.get_node_ip_address()
        host = host or node
        with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as free:
            port = int(free.getsockname()[1])
        place = HostPlace(node=node, host=host, port=port, python=sys.executable)
        return msgspec.json.encode(place).decode()

    async def run(self, spec: str, secret_file: str) -> str:
        """Start the instance of this LaunchSpec (JSON); HostedEnd as JSON when it has ended, or could not start.

        The cluster's secret is read from the node's own file, "" for none: it never goes through Ray.
        """
        try:
            secret = read_secret(secret_file) if secret_file else None
            self._child = await start(msgspec.json.decode(spec, type=LaunchSpec), Machine.here(), certified(secret))
        except ConfigError as error:
            return msgspec.json.encode(HostedEnd(exit_code=_NOT_STARTED, why=str(error))).decode()
        code = await self._child.wait()
        return msgspec.json.encode(HostedEnd(exit_code=code, why=await self._child.why_it_ended())).decode()

    async def stop(self) -> None:
        """End it, gently at first; returns when it is gone."""
        if self._child is not None:
            await self._child.stop()

    async def kill(self) -> None:
        """End it at once."""
        if self._child is not None:
            self._child.kill()

    def __repr__(self) -> str:
        return f"InstanceHost({self._child or 'nothing yet'})"

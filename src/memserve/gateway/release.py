"""Telling a decode instance's agent that nobody will ask for what it holds for a request.

Owns the releases under way and their connections. A release that does not get through is no fault of
the request: the lease at the instance ends it.

    open (async with) -> releasing -> closed: what is under way gets a last chance, the rest is dropped
"""

import asyncio
import logging

from memserve.cluster.view import InstanceView
from memserve.core.errors import MemserveError
from memserve.core.ids import RequestId
from memserve.gateway.ports import ReleaseClient
from memserve.rpc.channel import RpcClient
from memserve.security.secret import ClusterSecret
from memserve.wire.messages import PeerMessage, ReleaseRequest

_log = logging.getLogger(__name__)

_RELEASE_DEADLINE_S = 2.0
_MAX_UNDER_WAY = 1024


class RpcReleases:
    """ReleaseClient over the instances' control channel; one connection an endpoint."""

    def __init__(self, secret: ClusterSecret | None = None) -> None:
        self._secret = secret
        self._clients: dict[str, RpcClient[PeerMessage]] = {}

    async def release(self, *, endpoint: str, request: RequestId, deadline_s: float) -> None:
        client = self._clients.get(endpoint)
        if client is None:
            client = self._clients[endpoint] = RpcClient(endpoint, PeerMessage, secret=self._secret)
        await client.call(ReleaseRequest(request=request), deadline_s=deadline_s)

    async def close(self) -> None:
        clients, self._clients = list(self._clients.values()), {}
        for client in clients:
            await client.close()


class ReleaseDesk:
    """Sends releases in the background or waits for one."""

    def __init__(self, client: ReleaseClient) -> None:
        self._client = client
        self._tasks: set[asyncio.Task[None]] = set()

    async def release(self, instance: InstanceView, request: RequestId) -> None:
        """Until it is told or the deadline of 2 s has passed."""
        try:
            await self._client.release(endpoint=instance.peer.endpoint, request=request, deadline_s=_RELEASE_DEADLINE_S)
        except MemserveError as error:
            _log.info("request %s could not be released at %s: %s", request, instance.instance, error)

    def release_soon(self, instance: InstanceView, request: RequestId) -> None:
        """In the background; beyond 1024 under way it is left to the lease."""
        if len(self._tasks) >= _MAX_UNDER_WAY:
            _log.warning("request %s is left to its lease at %s: too many releases", request, instance.instance)
            return
        task = asyncio.create_task(self.release(instance, request), name=f"release {request}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Wait for what is under way; each has its own deadline."""
        await asyncio.gather(*self._tasks)

    def __repr__(self) -> str:
        return f"ReleaseDesk({len(self._tasks)} under way)"

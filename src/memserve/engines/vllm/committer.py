"""Tells receivers, from beside the worker, that blocks are written: no step of the engine delays it.

Owns one event loop on one thread and a connection per receiver. Each commit has a deadline; what
became of it is the future's business. Lifecycle: commit* -> close.
"""

import asyncio
import threading
from concurrent.futures import Future

import msgspec

from memserve.engines.vllm.jobs import Commit
from memserve.rpc.channel import RpcClient
from memserve.security.secret import ClusterSecret
from memserve.wire.messages import PeerMessage

COMMIT_DEADLINE_S = 10.0


class Committer:
    """Sends one rank's CommitRequests in the background. Thread-safe."""

    def __init__(self, *, rank: int, num_ranks: int, secret: ClusterSecret | None = None) -> None:
        self._rank = rank
        self._secret = secret
        self._num_ranks = num_ranks
        self._clients: dict[str, RpcClient[PeerMessage]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="memserve-committer", daemon=True)
        self._thread.start()

    def commit(self, commit: Commit) -> Future[None]:
        """Done when the receiver has published the blocks; fails with what it answered or DeadlineExceeded."""
        return asyncio.run_coroutine_threadsafe(self._commit(commit), self._loop)

    async def _commit(self, commit: Commit) -> None:
        endpoint = commit.peer.endpoint
        if endpoint not in self._clients:
            self._clients[endpoint] = RpcClient(endpoint, PeerMessage, secret=self._secret)
        request = msgspec.structs.replace(commit.request, rank=self._rank, num_ranks=self._num_ranks)
        await self._clients[endpoint].call(request, deadline_s=COMMIT_DEADLINE_S)

    def close(self) -> None:
        """Commits under way fail. Idempotent."""
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._close_clients(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _close_clients(self) -> None:
        for client in self._clients.values():
            await client.close()

"""Blocks that peers send here, from the request to the answer: room, bytes, check, publication.

Owns the threads that copy, and what is under way, so that a repeated request waits for the copy that is made
already. Takes the pool's lock for decisions only. Thread-safe; a copy runs on the caller's thread (`receive`) or on
one of its own (`submit`).
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from memserve.core.enums import DataPath
from memserve.core.errors import NotIntroduced
from memserve.core.ids import PLACE_MASK, BlockId, TransferId, block_index
from memserve.instance.core import PoolCore
from memserve.instance.data_paths import DataPaths
from memserve.instance.inbox import Inbox
from memserve.instance.records import Received
from memserve.transfer.record import peer_owner
from memserve.transport.base import Offer, RunCopy, Transport
from memserve.wire.messages import BlockList, PeerInfo, TransferReply, TransferRequest

_COPY_THREADS = {DataPath.SHM: 2, DataPath.TCP: 8, DataPath.NIXL: 2}
"""Apart, so that a peer that stalls the network delays no copy from memory."""

_Key = tuple[str, TransferId]


class IncomingCopies:
    """Of one pool."""

    def __init__(
        self,
        *,
        core: PoolCore,
        local: Callable[[], PeerInfo],
        paths: DataPaths,
        inbox: Inbox,
        is_here: Callable[[PeerInfo], bool],
    ) -> None:
        """`is_here`: this life of the peer has introduced itself and has not left."""
        self._core = core
        self._local = local
        self._paths = paths
        self._inbox = inbox
        self._is_here = is_here
        self._threads = {
            path: ThreadPoolExecutor(num_threads, thread_name_prefix=f"memserve-{path}")
            for path, num_threads in _COPY_THREADS.items()
        }
        self._lock = threading.Lock()
        self._under_way: dict[_Key, Future[TransferReply]] = {}

    def receive(self, message: TransferRequest, peer: PeerInfo) -> TransferReply:
        """Raises what the peer is to see."""
        future, is_new = self._join(message, peer)
        if is_new:
            self._settle(future, message, peer)
        return future.result()

    def submit(self, message: TransferRequest, peer: PeerInfo) -> "Future[TransferReply]":
        """As `receive`, on a thread for the path that leads there."""
        transport = self._paths.choose(peer)
        future, is_new = self._join(message, peer)
        if is_new:
            threads = self._threads[DataPath.SHM if transport is None else transport.name]
            threads.submit(self._settle, future, message, peer)
        return future

    def close(self) -> None:
        """Once the paths are closed: wait for the ends of what is under way."""
        for threads in self._threads.values():
            threads.shutdown(wait=True)

    def _join(self, message: TransferRequest, peer: PeerInfo) -> tuple["Future[TransferReply]", bool]:
        """What stands for this copy, and whether the caller is to make it."""
        key = _key(message, peer)
        with self._lock:
            found = self._under_way.get(key)
            if found is not None:
                return found, False
            future: Future[TransferReply] = Future()
            future.set_running_or_notify_cancel()  # from here on nobody who waits can cancel it for the others
            self._under_way[key] = future
            return future, True

    def _settle(self, future: "Future[TransferReply]", message: TransferRequest, peer: PeerInfo) -> None:
        try:
            reply = self._receive(message, peer)
        except BaseException as error:  # whoever waits raises it
            self._forget(message, peer)
            future.set_exception(error)
        else:
            self._forget(message, peer)
            future.set_result(reply)

    def _forget(self, message: TransferRequest, peer: PeerInfo) -> None:
        with self._lock:
            del self._under_way[_key(message, peer)]

    def _receive(self, message: TransferRequest, peer: PeerInfo) -> TransferReply:
        owner = peer_owner(peer.instance, peer.incarnation)
        copies = self._core.sessions.copies
        with self._core.lock:
            if not self._is_here(peer):
                raise NotIntroduced(f"{owner} has left meanwhile, or was taken for dead: say hello")
            repeated = copies.repeated(message)
            if repeated is not None:
                return repeated
            blocks = copies.begin(message)
        try:
            self._copy(self._paths.leading_to(peer), message, peer, blocks)
        except BaseException:
            with self._core.lock:
                copies.fail(message.transfer, owner)
            raise
        with self._core.lock:
            reply = copies.complete(message.transfer, owner)
        if message.notify:
            local = self._local()
            received = BlockList(instance=local.instance, incarnation=local.incarnation, blocks=reply.blocks)
            self._inbox.put(Received(sender=peer, addresses=received, private=message.private))
        return reply

    def _copy(
        self, transport: Transport, message: TransferRequest, peer: PeerInfo, blocks: tuple[BlockId, ...]
    ) -> None:
        transport.fetch(
            Offer(peer=peer, transfer=message.transfer, ticket=message.ticket),
            [
                RunCopy(
                    source_index=block_index(message.source.blocks[run.start]),
                    target=self._core.memory.view(blocks[run.start], len(run)),
                    checksums=message.checksums[run.start : run.stop],
                )
                for run in _neighbours(message.source.blocks, blocks)
            ],
        )

    def __repr__(self) -> str:
        return f"IncomingCopies({len(self._under_way)} under way)"


def _key(message: TransferRequest, peer: PeerInfo) -> _Key:
    return peer_owner(peer.instance, peer.incarnation), message.transfer


def _neighbours(sources: Sequence[BlockId], targets: Sequence[BlockId]) -> "Iterator[range]":
    """Ranges of positions whose blocks lie one after the other on both sides."""
    places = np.array((sources, targets), np.int64) & PLACE_MASK
    breaks = np.flatnonzero((np.diff(places) != 1).any(axis=0)) + 1
    edges = (0, *breaks.tolist(), len(sources))
    return map(range, edges, edges[1:])

"""Bytes between two instances of one host: the receiver maps the sender's arena and copies once.

Owns the mappings of peers' arenas, at most `max_arenas` (the least recently used one goes). Maps for
reading only. Thread-safe; copies run outside the lock and, but for small blocks, outside the GIL.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol

from memserve.core.enums import DataPath
from memserve.core.errors import InstanceUnavailable, MemserveError
from memserve.transport.base import Offer, RunCopy, check_arrived
from memserve.transport.verified_copy import PIECE_BYTES, CopyThreads, copy_blocks_hashed
from memserve.wire.messages import ArenaRef, PeerInfo


class MappedArena(Protocol):
    """A peer's arena in this process' address space."""

    def view(self, block_index: int, num_blocks: int = 1) -> memoryview: ...

    def close(self) -> None: ...


class SharedMemoryTransport:
    """A Transport between processes of one host; `attach` maps an arena."""

    name = DataPath.SHM

    def __init__(
        self, attach: Callable[[ArenaRef], MappedArena], *, threads: CopyThreads, max_arenas: int = 64
    ) -> None:
        """`threads` are shared with others, and closed by their owner."""
        self._attach = attach
        self._threads = threads
        self._max_arenas = max_arenas
        self._arenas: OrderedDict[ArenaRef, MappedArena] = OrderedDict()
        self._lock = threading.Lock()

    def reaches(self, peer: PeerInfo) -> bool:
        """Whether its arena can be mapped, which is tried."""
        try:
            self._attached(peer)
        except MemserveError:
            return False
        return True

    def fetch(self, offer: Offer, runs: Sequence[RunCopy]) -> None:
        """Neighbours are copied together, as many as stay in the cache until they are hashed."""
        arena = self._attached(offer.peer)

        def fill(run: RunCopy) -> None:
            source = arena.view(run.source_index, len(run.checksums))
            found = copy_blocks_hashed(run.target, source, block_bytes=run.block_bytes)
            if found != run.checksums:
                for position, (one, announced) in enumerate(zip(found, run.checksums, strict=True)):
                    check_arrived(run.source_index + position, one, announced=announced)

        pieces = [piece for run in runs for piece in run.cut(max(1, PIECE_BYTES // run.block_bytes))]
        self._threads.run(fill, pieces, num_bytes=sum(run.target.nbytes for run in runs))

    def close(self) -> None:
        with self._lock:
            for attached in self._arenas.values():
                attached.close()
            self._arenas.clear()

    def _attached(self, peer: PeerInfo) -> MappedArena:
        arena = peer.arena
        if arena is None:
            raise InstanceUnavailable(f"{peer.instance} has no memory that other processes may map")
        with self._lock:
            found = self._arenas.pop(arena, None) or self._attach(arena)
            self._arenas[arena] = found
            if len(self._arenas) > self._max_arenas:
                self._arenas.popitem(last=False)  # a copy under way keeps the mapping alive through its view
            return found

    def __repr__(self) -> str:
        return f"SharedMemoryTransport({len(self._arenas)} arenas mapped)"

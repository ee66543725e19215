"""A hand-over as an engine makes it, over TCP: room is reserved, written and committed. Aggregated or in 2·L pieces.

The first argument is the plan; the number of layers is that of a 7B model.
"""

import os
import sys
from itertools import count

import numpy as np

from memserve import MemPool, __version__
from memserve.bench.systems.transfer_child import Receiver, num_regions, receive, serve_path, timed
from memserve.core.clock import SystemClock
from memserve.core.enums import DataPath, PiecePlan
from memserve.core.ids import RequestId, TransferId, block_index
from memserve.transfer.plan import pieces
from memserve.transport.rooms import Part, RemoteRoom, cut
from memserve.transport.tcp import TcpTransport
from memserve.wire.messages import CommitRequest, ReserveRequest

_BLOCK_TOKENS = 16
_NUM_LAYERS = 32
_FRAME_BYTES = 8 << 20
_DEADLINE_S = 60.0


class PiecesTransfer:
    """One plan."""

    version = __version__
    num_calls = 0

    def __init__(self, plan: PiecePlan) -> None:
        self._plan = plan
        self._numbers = count(1)

    def open(self, path: str, block_bytes: int, num_blocks: int) -> None:
        self._receiver = Receiver("memserve_pieces", path, str(block_bytes), str(2 * num_blocks * block_bytes))
        self._pool = _pool("sender", path, block_bytes, block_bytes)
        self._peer = self._pool.connect(self._receiver.hello)
        self._network = TcpTransport(clock=SystemClock())
        self._memory = np.ones((num_regions(block_bytes, num_blocks), num_blocks, block_bytes), np.uint8)
        self._ranges = pieces(self._plan, num_bytes=block_bytes, num_layers=_NUM_LAYERS)
        self._tokens = np.arange(num_blocks * _BLOCK_TOKENS, dtype="<i4").tobytes()

    def move(self, region: int) -> int:
        return timed(lambda: self._hand_over(list(self._memory[region])))

    def close(self) -> None:
        self._network.close()
        self._pool.close()
        self._receiver.close()

    def _hand_over(self, blocks: list["np.ndarray[tuple[int], np.dtype[np.uint8]]"]) -> None:
        engine, own = self._pool.engine_path, self._pool.info
        request = ReserveRequest(
            transfer=TransferId(f"{own.instance}/{own.incarnation}/{next(self._numbers)}"),
            request=RequestId("bench"),
            sender=own.instance,
            incarnation=own.incarnation,
            tokens=self._tokens,
            namespace=b"",
            reuse=False,
            tail=False,
            handoff=False,
            ttl_s=_DEADLINE_S,
            path=DataPath.TCP,
        )
        reply = engine.reserve(self._peer, request).result(_DEADLINE_S)
        room = RemoteRoom(endpoint=self._peer.data, transfer=request.transfer, ticket=reply.ticket)
        at_once = max(1, _FRAME_BYTES // blocks[0].nbytes)
        parts = (
            Part(
                blocks=tuple(block_index(block) for block in reply.blocks[first : first + at_once]),
                offset=0,
                data=tuple(block.data for block in blocks[first : first + at_once]),
            )
            for first in range(0, len(blocks), at_once)
        )
        self.num_calls = self._network.write(room, cut(parts, self._ranges))
        commit = CommitRequest(transfer=request.transfer, num_blocks=len(blocks), insert=False)
        engine.commit(self._peer, commit).result(_DEADLINE_S)


def _pool(instance: str, path: str, block_bytes: int, dram_bytes: int) -> MemPool:
    return MemPool(
        instance=instance,
        block_size=_BLOCK_TOKENS,
        block_bytes=block_bytes,
        dram_bytes=dram_bytes,
        cluster=f"bench{os.getpid()}",
        paths=(DataPath(path),),
    )


if __name__ == "__main__":
    if len(sys.argv) > 2:
        way, size, room = sys.argv[1:]
        with _pool("receiver", way, int(size), int(room)) as pool:
            receive(pool.info.endpoint)
    else:
        serve_path(lambda: PiecesTransfer(PiecePlan(sys.argv[1])))

"""KV of one request on its way into another instance's pool.

Lifecycle: reserving -> (reserved | refused) -> sent -> committed by the worker | abandoned.
Owns what has been handed to the worker so far; never copies and never blocks. The receiver keeps
the room until commit, abort or this process's end, so `abandon` comes only after the worker has
stopped writing.
"""

from collections.abc import Sequence
from concurrent.futures import Future

from memserve.core.enums import DataPath, TransferMode
from memserve.core.ids import InstanceId, block_index
from memserve.engines.vllm.jobs import Commit, JobResult
from memserve.transport.rooms import RemoteRoom
from memserve.wire.messages import ArenaRef, CommitRequest, MovedBlocks, PeerInfo, ReserveReply, ReserveRequest


class Outgoing:
    """One ReserveRequest and what became of it."""

    def __init__(
        self,
        *,
        peer: PeerInfo,
        path: DataPath | None,
        mode: TransferMode,
        request: ReserveRequest,
        reply: Future[ReserveReply],
        insert: bool,
        deadline: float,
    ) -> None:
        """`path` is how bytes get there; None when nothing leads there."""
        self.peer = peer
        self._path = path
        self._mode = mode
        self.request = request
        self._reply = reply
        self._insert = insert
        self._deadline = deadline
        self._num_taken = 0
        self._num_calls = 0
        self._seconds = 0.0
        self.has_failed = False
        self.is_complete = False
        """The worker has its last job, the one with the commit."""

    def is_settled(self, now: float) -> bool:
        """The receiver has answered, or waiting longer is not worth it."""
        return self._reply.done() or now >= self._deadline

    @property
    def room(self) -> ReserveReply | None:
        """What the receiver gave; None while unknown, when refused, or where no path leads."""
        if not self._reply.done() or self._reply.cancelled() or self._reply.exception() is not None:
            return None
        return self._reply.result() if self._path is not None else None

    @property
    def arena(self) -> ArenaRef | None:
        """The receiver's memory, when this host can map it."""
        return self.peer.arena if self._path is DataPath.SHM else None

    @property
    def remote_room(self) -> RemoteRoom | None:
        """Where the bytes go over the network, when they do."""
        if self.room is None or self._path is None or self._path is DataPath.SHM:
            return None
        return RemoteRoom(
            endpoint=self.peer.data, transfer=self.request.transfer, ticket=self.room.ticket, path=self._path
        )

    @property
    def num_blocks(self) -> int:
        """Blocks to be moved; 0 while or where there is no room."""
        return len(self.room.blocks) if self.room is not None else 0

    def take(self, engine_blocks: Sequence[int], num_ready: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Pairs (engine blocks, arena positions) not handed out before, of the request's first `num_ready` blocks."""
        room = self.room
        if room is None:
            return (), ()
        first = room.num_held_blocks + self._num_taken
        last = min(num_ready, room.num_held_blocks + len(room.blocks), len(engine_blocks))
        if last <= first:
            return (), ()
        targets = room.blocks[self._num_taken : self._num_taken + last - first]
        self._num_taken += last - first
        return tuple(engine_blocks[first:last]), tuple(block_index(b) for b in targets)

    def restart(self) -> None:
        """The request was preempted and is computed again: everything is to be sent again."""
        self._num_taken = 0

    def take_commit(self) -> Commit | None:
        """To go with the job that takes the last blocks; None before that, without room, and ever after."""
        if self.room is None or self._num_taken < self.num_blocks or self.is_complete:
            return None
        self.is_complete = True
        return Commit(
            peer=self.peer,
            request=CommitRequest(transfer=self.request.transfer, num_blocks=self.num_blocks, insert=self._insert),
        )

    def record(self, result: JobResult) -> None:
        """One of its jobs has ended on all ranks."""
        self._num_calls += result.num_calls
        self._seconds += result.seconds
        self.has_failed = self.has_failed or result.failed

    def moved(self, *, source: InstanceId, block_size: int) -> MovedBlocks | None:
        """What arrived, or None when nothing went or it failed."""
        room = self.room
        if room is None or self._path is None or not room.blocks or not self.is_complete or self.has_failed:
            return None
        first_token = room.num_held_blocks * block_size
        end_token = min(len(self.request.tokens) // 4, first_token + len(room.blocks) * block_size)
        return MovedBlocks(
            source=source,
            target=self.peer.instance,
            path=self._path,
            num_blocks=len(room.blocks),
            num_tokens=end_token - first_token,
            num_bytes=len(room.blocks) * self.peer.identity.block_bytes,
            num_calls=self._num_calls,
            mode=self._mode,
            seconds=self._seconds,
        )

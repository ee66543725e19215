"""Beside one vLLM worker: copies KV between the engine's paged tensors and arenas, mapped or over the network.

Does what the StepPlan says and decides nothing. Copies run on a background thread, those over the network
on another one; the forward waits for them only when a preemption is about to overwrite blocks that a copy still reads.
A copy that fails is reported, never raised into the engine: the request recomputes.
"""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

import torch

from memserve.core.clock import Clock
from memserve.core.enums import PiecePlan
from memserve.core.errors import InvariantError
from memserve.engines.device.side_stream import Mark
from memserve.engines.vllm.block_copies import BlockCopies, block_copies
from memserve.engines.vllm.copier import BlockCopier
from memserve.engines.vllm.jobs import Commit, CopyJob, JobKind, JobResult, Pace, StepPlan
from memserve.engines.vllm.layout import EngineMemory
from memserve.engines.vllm.network_sender import NetworkSender
from memserve.storage.base import MappedStorage
from memserve.transport.rooms import RoomWriter
from memserve.wire.messages import ArenaRef

logger = logging.getLogger(__name__)

_PRIORITY = {JobKind.LOAD: 0, JobKind.SEND: 1, JobKind.SAVE: 2}

Attach = Callable[[ArenaRef], MappedStorage]
"""Maps an arena; raises InstanceUnavailable when it is gone."""


class _OpenJob:
    """Progress of one job: how many pieces are still to be copied."""

    def __init__(self, job: CopyJob, pieces: int, started: float) -> None:
        self.job = job
        self.pieces_left = pieces
        self.failed = False
        self.started = started
        self.num_calls = 0


class WorkerSide:
    """Copies for one rank. Thread-safe: vLLM's thread submits, the copier's thread ends jobs."""

    def __init__(
        self,
        *,
        memory: EngineMemory,
        attach: Attach,
        commit: Callable[[Commit], Future[None]],
        network: RoomWriter,
        rank: int,
        clock: Clock,
        plan: PiecePlan = PiecePlan.AGGREGATED,
        copies: Callable[[EngineMemory], BlockCopies] = block_copies,
    ) -> None:
        """`copies` makes one object for each copying thread."""
        self._memory = memory
        self._plan = plan
        self._copies = copies(memory)
        self._attach = attach
        self._arenas: dict[str, MappedStorage] = {}
        self._commit = commit
        self._clock = clock
        self._copier = BlockCopier(f"memserve-copier-{rank}")
        self._network = network
        self._network_copier = BlockCopier(f"memserve-network-{rank}")
        self._sender = NetworkSender(memory=memory, copies=copies(memory), transport=network, clock=clock, plan=plan)
        self._lock = threading.Lock()
        self._results: dict[int, JobResult] = {}
        self._loaded: set[str] = set()
        self._bad_blocks: set[int] = set()
        self._by_layer: list[_OpenJob] = []
        self._layers_left: set[str] = set()
        self._released: set[str] = set()

    def begin_step(self, plan: StepPlan) -> None:
        """Before the forward of this step."""
        if plan.settle_first:
            self._copier.settle()
            self._network_copier.settle()
        self._released.update(plan.released)
        self._by_layer = []
        mark = self._copies.mark() if plan.jobs else None
        for job in plan.jobs:
            if job.pace is Pace.BY_LAYER:
                self._by_layer.append(_OpenJob(job, len(self._memory.layers), self._clock.now()))
            else:
                opened = _OpenJob(job, 1, self._clock.now())
                self._submit(opened, partial(self._copy_whole, opened, mark))
        self._layers_left = set(self._memory.layers) if self._by_layer else set()

    def layer_computed(self, layer: str) -> None:
        """The attention of `layer` has written this step's KV."""
        if layer in self._layers_left:
            self._layers_left.discard(layer)
            mark = self._copies.mark()
            for opened in self._by_layer:
                self._submit(opened, partial(self._copy_layer, opened, layer, mark))

    def end_step(self) -> None:
        """After the forward: layers that no hook announced are complete too."""
        for layer in self._memory.layers:
            self.layer_computed(layer)

    def take_finished(self) -> tuple[set[str], set[str]]:
        """Requests whose blocks may be freed, and requests whose loads have ended."""
        with self._lock:
            released, self._released = self._released, set()
            loaded, self._loaded = self._loaded, set()
        return released, loaded

    def take_bad_blocks(self) -> set[int]:
        """Engine blocks whose load failed; vLLM recomputes them."""
        with self._lock:
            bad, self._bad_blocks = self._bad_blocks, set()
        return bad

    def take_results(self) -> dict[int, JobResult]:
        with self._lock:
            results, self._results = self._results, {}
        return results

    def close(self) -> None:
        """Finish copies within the host; those over the network fail."""
        self._copier.close()
        self._network.close()
        self._network_copier.close()

    def _submit(self, opened: _OpenJob, task: Callable[[], None]) -> None:
        copier = self._copier if opened.job.room is None else self._network_copier
        copier.submit(task, priority=_PRIORITY[opened.job.kind], on_end=lambda error: self._piece_ended(opened, error))

    def _copy_whole(self, opened: _OpenJob, mark: Mark) -> None:
        job = opened.job
        if job.kind is not JobKind.LOAD and not self._memory.share.is_writer:
            return
        if job.room is not None:
            opened.num_calls += self._sender.send_whole(job.room, mark, job.engine_blocks, job.arena_blocks)
            return
        if job.kind is JobKind.SEND and self._plan is PiecePlan.DISCRETE:
            opened.num_calls += self._copy_apart(job, mark)
            return
        opened.num_calls += 1
        copy = self._copies.read_in if job.kind is JobKind.LOAD else self._copies.write_out
        copy(mark, job.engine_blocks, self._arena_blocks(job))

    def _copy_layer(self, opened: _OpenJob, layer: str, mark: Mark) -> None:
        job = opened.job
        if not self._memory.share.is_writer:
            return
        if job.room is not None:
            if not opened.failed:
                opened.num_calls += self._sender.send_layer(job.room, layer, mark, job.engine_blocks, job.arena_blocks)
            return
        opened.num_calls += 1
        self._copies.write_out_layer(mark, layer, job.engine_blocks, self._arena_blocks(job))

    def _copy_apart(self, job: CopyJob, mark: Mark) -> int:
        """Each layer of each block in a copy of its own; returns how many they were."""
        targets = self._arena_blocks(job)
        for layer in self._memory.layers:
            for block, target in zip(job.engine_blocks, targets, strict=True):
                self._copies.write_out_layer(mark, layer, (block,), (target,))
        return len(self._memory.layers) * len(targets)

    def _arena_blocks(self, job: CopyJob) -> list[torch.Tensor]:
        """Each one whole, all ranks: uint8 of shape [layout.block_bytes]."""
        if job.arena is None:
            raise InvariantError(f"copy job {job.job} names neither memory to map nor a room over the network")
        if job.arena.path not in self._arenas:
            self._arenas[job.arena.path] = self._attach(job.arena)
        arena = self._arenas[job.arena.path]
        return [torch.frombuffer(arena.view(block), dtype=torch.uint8) for block in job.arena_blocks]

    def _piece_ended(self, opened: _OpenJob, error: BaseException | None) -> None:
        opened.pieces_left -= 1
        opened.failed = opened.failed or error is not None
        if opened.pieces_left == 0:
            self._job_ended(opened)

    def _job_ended(self, opened: _OpenJob) -> None:
        commit = opened.job.commit
        if commit is None or opened.failed:
            self._record(opened)
            return
        self._commit(commit).add_done_callback(lambda reply: self._committed(opened, commit, reply.exception()))

    def _committed(self, opened: _OpenJob, commit: Commit, error: BaseException | None) -> None:
        if error is not None:
            logger.warning("%s did not take transfer %s: %s", commit.peer.instance, commit.request.transfer, error)
            opened.failed = True
        self._record(opened)

    def _record(self, opened: _OpenJob) -> None:
        job = opened.job
        result = JobResult(
            num_ranks=1,
            failed=opened.failed,
            seconds=self._clock.now() - opened.started,
            num_calls=opened.num_calls,
        )
        with self._lock:
            self._results[job.job] = result
            if job.kind is JobKind.LOAD:
                self._loaded.add(job.request)
                if opened.failed:
                    self._bad_blocks.update(job.engine_blocks)

"""An engine without a model around the real connector sides: real pool, real copies, real shared memory.

Does in order what vLLM 0.32 does with a connector: arrival, match, allocation, one step after the
other, finish. "Computing" a token's KV writes bytes that depend on all tokens up to it.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from uuid import uuid4

import torch

from memserve.config import ALL_PATHS, LOOPBACK, DiskPlace
from memserve.core.clock import SystemClock
from memserve.core.enums import CachingMode, DataPath, TransferMode
from memserve.core.errors import InstanceUnavailable
from memserve.engines.vllm.block_copies import BlockCopies, block_copies
from memserve.engines.vllm.committer import Committer
from memserve.engines.vllm.jobs import Commit, JobsDone
from memserve.engines.vllm.layout import EngineMemory
from memserve.engines.vllm.scheduler_side import SchedulerSide
from memserve.engines.vllm.worker_side import WorkerSide
from memserve.instance.mempool import MemPool
from memserve.storage.base import Storage
from memserve.storage.shared_memory import attach
from memserve.transport.room_writers import RoomWriters
from memserve.wire.messages import ArenaRef, RequestParams, RequestReport
from tests.engines.paged import BLOCK_BYTES, BLOCK_SIZE, paged_memory

NUM_ENGINE_BLOCKS = 64
PATIENCE_S = 10.0


class MiniEngine:
    def __init__(
        self,
        name: str,
        *,
        caching: CachingMode,
        transfer: TransferMode,
        num_pool_blocks: int = 32,
        paths: tuple[DataPath, ...] = ALL_PATHS,
        num_ranks: int = 1,
        copies: Callable[[EngineMemory], BlockCopies] = block_copies,
        disk: DiskPlace | None = None,
    ) -> None:
        self.pool = MemPool(
            instance=name,
            block_size=BLOCK_SIZE,
            block_bytes=BLOCK_BYTES,
            dram_bytes=num_pool_blocks * BLOCK_BYTES,
            cluster="mini",
            paths=paths,
            disk=disk,
        )
        self.reported: list[RequestReport] = []
        self.pool.report = self.reported.append  # type: ignore[method-assign]
        assert self.pool.arena is not None
        self.scheduler = SchedulerSide(
            pool=self.pool,
            arena=self.pool.arena,
            caching=caching,
            transfer=transfer,
            block_size=BLOCK_SIZE,
            num_ranks=num_ranks,
            clock=SystemClock(),
        )
        self.memories = [
            paged_memory(rank=rank, num_ranks=num_ranks, num_blocks=NUM_ENGINE_BLOCKS) for rank in range(num_ranks)
        ]
        self.committers = [Committer(rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]
        self.workers = [
            WorkerSide(
                memory=memory,
                attach=partial(self._attach, rank),
                commit=partial(self._commit, rank),
                network=RoomWriters(paths, name=f"{name}/{rank}/{uuid4()}", network=LOOPBACK, clock=SystemClock()),
                rank=rank,
                clock=SystemClock(),
                copies=copies,
            )
            for rank, memory in enumerate(self.memories)
        ]
        self.loaded: set[str] = set()
        self.bad_blocks: set[int] = set()
        self._ends: Counter[tuple[str, str]] = Counter()
        self.commit_error: Exception | None = None
        self.blind_ranks: set[int] = set()
        """These cannot map any memory from now on."""
        self.blocks: dict[str, list[int]] = {}
        self.prompts: dict[str, list[int]] = {}
        self._free = list(range(1, NUM_ENGINE_BLOCKS))

    def _commit(self, rank: int, commit: Commit) -> Future[None]:
        if self.commit_error is None:
            return self.committers[rank].commit(commit)
        failed: Future[None] = Future()
        failed.set_exception(self.commit_error)
        return failed

    def _attach(self, rank: int, ref: ArenaRef) -> Storage:
        if rank in self.blind_ranks:
            raise InstanceUnavailable(f"rank {rank} cannot map {ref.path}")
        return attach(ref)

    # ------------------------------------------------------------ a request's life, in vLLM's order

    def run(self, key: str, params: RequestParams, prompt: Sequence[int], output: Sequence[int] = (0,)) -> None:
        """From arrival to the release of its engine blocks."""
        self.admit(key, params, prompt)
        self.compute(key, output)
        self.finish(key, output)
        self.step_until(lambda: key not in self.blocks)

    def admit(self, key: str, params: RequestParams, prompt: Sequence[int]) -> int:
        """Arrival to loaded; returns how many prompt tokens need no computation."""
        self.prompts[key] = list(prompt)
        self.scheduler.arrive(key=key, params=params, tokens=prompt, namespace=b"")
        found = None
        for _ in self.steps():
            found = self.scheduler.match(key=key, tokens=lambda: prompt, num_local_tokens=0)
            if found is not None:
                break
        assert found is not None
        num_blocks = -(-(len(prompt) + 64) // BLOCK_SIZE)
        self.blocks[key] = [self._free.pop() for _ in range(num_blocks)]
        self.scheduler.allocated(key=key, engine_blocks=self.blocks[key], num_external_tokens=found)
        if found:
            self.step_until(lambda: key in self.loaded)
        return found

    def compute(self, key: str, output: Sequence[int]) -> None:
        """One step over the rest of the prompt, layer by layer, then one per output token."""
        tokens = [*self.prompts[key], *output]
        self.step({key: len(self.prompts[key])}, write=lambda: self._fill(key, tokens, len(self.prompts[key])))
        for num_tokens in range(len(self.prompts[key]) + 1, len(tokens)):
            self.step({key: num_tokens}, write=lambda n=num_tokens: self._fill(key, tokens, n))

    def finish(self, key: str, output: Sequence[int]) -> RequestReport | None:
        tokens = [*self.prompts[key], *output][:-1]
        num_blocks = -(-len(tokens) // BLOCK_SIZE)
        keep, report = self.scheduler.finish(
            key=key, engine_blocks=self.blocks[key][:num_blocks], tokens=tokens, num_output_tokens=len(output)
        )
        if not keep:
            self._release(key)
        return report

    def abort(self, key: str) -> None:
        if not self.scheduler.abort(key=key, engine_blocks=self.blocks.get(key, [])):
            self._release(key)

    # ------------------------------------------------------------ steps

    def step(
        self, scheduled: dict[str, int] | None = None, *, write=lambda: None, preempted: Sequence[str] = ()
    ) -> None:
        batch = {key: (self.blocks[key], n) for key, n in (scheduled or {}).items()}
        plan = self.scheduler.plan_step(scheduled=batch, preempted=preempted)
        for worker in self.workers:
            worker.begin_step(plan)
        write()
        for worker in self.workers:
            for layer in self.memories[0].layers:
                worker.layer_computed(layer)
            worker.end_step()
        self._gather()

    def _gather(self) -> None:
        """What the ranks say, put together as vLLM does: a request is through when every rank says so."""
        done = JobsDone()
        for worker in self.workers:
            released, loaded = worker.take_finished()
            self._ends.update([*(("released", key) for key in released), *(("loaded", key) for key in loaded)])
            self.bad_blocks |= worker.take_bad_blocks()
            done = done.aggregate(JobsDone(results=worker.take_results()))
        for what, key in [end for end, count in self._ends.items() if count == len(self.workers)]:
            del self._ends[what, key]
            if what == "released":
                self._release(key)
            else:
                self.loaded.add(key)
        self.scheduler.jobs_ended(done.results)

    def steps(self) -> Iterator[None]:
        """Empty steps, as vLLM makes them while something is under way; bounded in time."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            yield
            self.step()
            time.sleep(0.001)

    def step_until(self, condition) -> None:
        for _ in self.steps():
            if condition():
                return
        raise AssertionError(f"not within {PATIENCE_S:g} s: {self.pool}")

    # ------------------------------------------------------------ bytes

    def _fill(self, key: str, tokens: Sequence[int], num_tokens: int) -> None:
        for index in range(-(-num_tokens // BLOCK_SIZE)):
            covered = tuple(tokens[: min(num_tokens, (index + 1) * BLOCK_SIZE)])
            generator = torch.Generator().manual_seed(hash(covered))
            whole = torch.randint(0, 256, (BLOCK_BYTES,), dtype=torch.uint8, generator=generator)
            for memory in self.memories:
                memory.read_in(self.blocks[key][index], whole)

    def kv(self, key: str, num_tokens: int) -> bytes:
        """What the engine holds for the first `num_tokens` tokens of a request, in whole blocks, all heads."""
        blocks = torch.zeros(-(-num_tokens // BLOCK_SIZE), BLOCK_BYTES, dtype=torch.uint8)
        for memory in self.memories:
            for target, block in zip(blocks, self.blocks[key], strict=False):
                memory.write_out(block, target)
        return blocks.numpy().tobytes()

    def _release(self, key: str) -> None:
        self._free.extend(self.blocks.pop(key, []))

    def close(self) -> None:
        for worker in self.workers:
            worker.close()
        for committer in self.committers:
            committer.close()
        self.pool.close()

    def is_idle(self) -> bool:
        """No request is being wound down and nothing is held for anybody: no lease, reservation or handoff."""
        stats = self.pool.stats()
        reserved = sum(t.num_reserved for t in stats.tiers)
        return (len(self.blocks), reserved, stats.num_leases, stats.num_transfers_open, stats.num_handoffs) == (0,) * 5

"""An engine without a model around the real connector sides: real pool, real copies, real shared memory.

Does in order what vLLM 0.32 does with a connector: arrival, match, allocation, one step after the
other, finish. "Computing" a token's KV writes bytes that depend on all tokens up to it.
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future

import torch

from memserve.config import ALL_PATHS
from memserve.core.clock import SystemClock
from memserve.core.enums import CachingMode, DataPath, Role, TransferMode
from memserve.engines.vllm.committer import Committer
from memserve.engines.vllm.jobs import Commit
from memserve.engines.vllm.layout import EngineMemory
from memserve.engines.vllm.scheduler_side import SchedulerSide
from memserve.engines.vllm.worker_side import WorkerSide
from memserve.instance.mempool import MemPool
from memserve.storage.shared_memory import attach
from memserve.transport.tcp import TcpTransport
from memserve.wire.messages import RequestParams, RequestReport
from tests.engines.paged import BLOCK_SIZE, LAYERS, PAGE_BYTES, paged_cache

NUM_ENGINE_BLOCKS = 64
PATIENCE_S = 10.0


class MiniEngine:
    def __init__(
        self,
        name: str,
        role: Role,
        *,
        caching: CachingMode,
        transfer: TransferMode,
        num_pool_blocks: int = 32,
        paths: tuple[DataPath, ...] = ALL_PATHS,
    ) -> None:
        config, caches = paged_cache(outermost="layer", num_blocks=NUM_ENGINE_BLOCKS)
        block_bytes = PAGE_BYTES * len(LAYERS)
        self.pool = MemPool(
            instance=name,
            block_size=BLOCK_SIZE,
            block_bytes=block_bytes,
            dram_bytes=num_pool_blocks * block_bytes,
            cluster="mini",
            paths=paths,
        )
        self.reported: list[RequestReport] = []
        self.pool.report = self.reported.append  # type: ignore[method-assign]
        assert self.pool.arena is not None
        self.scheduler = SchedulerSide(
            pool=self.pool,
            arena=self.pool.arena,
            role=role,
            caching=caching,
            transfer=transfer,
            block_size=BLOCK_SIZE,
            num_ranks=1,
            clock=SystemClock(),
        )
        self.memory = EngineMemory(config, caches)
        self.committer = Committer(rank=0, num_ranks=1)
        self.worker = WorkerSide(
            memory=self.memory,
            attach=attach,
            commit=self._commit,
            network=TcpTransport(clock=SystemClock()),
            rank=0,
            clock=SystemClock(),
        )
        self.commit_error: Exception | None = None
        self.blocks: dict[str, list[int]] = {}
        self.prompts: dict[str, list[int]] = {}
        self._free = list(range(1, NUM_ENGINE_BLOCKS))

    def _commit(self, commit: Commit) -> Future[None]:
        if self.commit_error is None:
            return self.committer.commit(commit)
        failed: Future[None] = Future()
        failed.set_exception(self.commit_error)
        return failed

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
            self.loaded: set[str] = set()
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
        self.worker.begin_step(plan)
        write()
        for layer in self.memory.layers:
            self.worker.layer_computed(layer)
        self.worker.end_step()
        released, loaded = self.worker.take_finished()
        for key in released:
            self._release(key)
        self.loaded = getattr(self, "loaded", set()) | loaded
        self.scheduler.jobs_ended(self.worker.take_results())

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
            for layer, pages in enumerate(self.memory.pages[0]):
                generator = torch.Generator().manual_seed(hash((covered, layer)))
                page = torch.randint(0, 256, pages[0].shape, dtype=torch.uint8, generator=generator)
                pages[self.blocks[key][index]].copy_(page)

    def kv(self, key: str, num_tokens: int) -> bytes:
        """What the engine holds for the first `num_tokens` tokens of a request, in whole blocks."""
        blocks = self.blocks[key][: -(-num_tokens // BLOCK_SIZE)]
        return b"".join(bytes(self.memory.pages[0][:, b].contiguous().view(-1).tolist()) for b in blocks)

    def _release(self, key: str) -> None:
        self._free.extend(self.blocks.pop(key, []))

    def close(self) -> None:
        self.worker.close()
        self.committer.close()
        self.pool.close()

    def is_idle(self) -> bool:
        """No request is being wound down and nothing is held for anybody: no lease, reservation or handoff."""
        stats = self.pool.stats()
        reserved = sum(t.num_reserved for t in stats.tiers)
        return (len(self.blocks), reserved, stats.num_leases, stats.num_transfers_open, stats.num_handoffs) == (0,) * 5

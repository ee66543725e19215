"""A simulated engine: continuous batching, paged KV and the connector's real halves, around the model of tokens.py.

Owns one thread, which does in order what vLLM does with a connector: arrival, match, allocation, one step after the
other, finish. What it loads is compared with what the tokens say and, right or wrong, computed with.
"""

import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

from memserve.core.clock import SystemClock
from memserve.core.enums import CachingMode, TransferMode
from memserve.engines.vllm.committer import Committer
from memserve.engines.vllm.jobs import JobsDone
from memserve.engines.vllm.scheduler_side import SchedulerSide
from memserve.engines.vllm.worker_side import WorkerSide
from memserve.instance.mempool import MemPool
from memserve.storage.shared_memory import attach
from memserve.transport.tcp import TcpTransport
from memserve.wire.messages import RequestParams, RequestReport
from tests.chaos.paged import BLOCK_SIZE, LAYERS, PagedKv
from tests.chaos.tokens import TOKEN_BYTES, extend, next_token

NUM_ENGINE_BLOCKS = 1024
MAX_BATCH = 16
STEP_S = 0.005
TOKEN_S = 0.00002
"""A step takes so long, and so much longer for each token that it computes."""
_PAUSE_S = 0.001

_log = logging.getLogger("memserve.chaos")


class Stage(Enum):
    WAITING = auto()
    LOADING = auto()
    RUNNING = auto()
    GONE = auto()


@dataclass
class Generation:
    """One request in the engine. `on_token` is called on the engine's thread, at the end with the report."""

    key: str
    params: RequestParams
    prompt: list[int]
    num_wanted: int
    on_token: Callable[[int, RequestReport | None], None]
    output: list[int] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)
    num_kv: int = 0
    stage: Stage = Stage.WAITING

    @property
    def tokens(self) -> list[int]:
        return self.prompt + self.output


class ChaosEngine:
    """Thread-safe: `submit`, `abort`, `close`."""

    def __init__(self, pool: MemPool, *, caching: CachingMode, transfer: TransferMode) -> None:
        assert pool.arena is not None
        self._kv = PagedKv(NUM_ENGINE_BLOCKS)
        self._free = list(range(NUM_ENGINE_BLOCKS))
        self.scheduler = SchedulerSide(
            pool=pool,
            arena=pool.arena,
            caching=caching,
            transfer=transfer,
            block_size=BLOCK_SIZE,
            num_ranks=1,
            clock=SystemClock(),
        )
        self._committer = Committer(rank=0, num_ranks=1)
        self._worker = WorkerSide(
            memory=self._kv.memory,
            attach=attach,
            commit=self._committer.commit,
            network=TcpTransport(clock=SystemClock()),
            rank=0,
            clock=SystemClock(),
        )
        self._numbers = itertools.count()
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._here: dict[str, Generation] = {}
        self._kept: dict[str, list[int]] = {}
        """Engine blocks of requests that are over, while somebody reads or writes them."""
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine")
        self._thread.start()

    def submit(
        self,
        prompt: list[int],
        num_wanted: int,
        params: RequestParams,
        on_token: Callable[[int, RequestReport | None], None],
    ) -> str:
        key = f"{params.request}/{next(self._numbers)}"
        self._calls.put(lambda: self._arrive(Generation(key, params, prompt, num_wanted, on_token)))
        return key

    def abort(self, key: str) -> None:
        """Whoever asked for it is gone."""
        self._calls.put(lambda: self._abort(key))

    def close(self) -> None:
        self._closing.set()
        self._calls.put(lambda: None)
        self._thread.join()
        self._worker.close()
        self._committer.close()

    # ------------------------------------------------------------ the engine's thread

    def _run(self) -> None:
        while not self._closing.is_set():
            self._take_calls()
            self._admit()
            num_computed = self._step()
            time.sleep(STEP_S + num_computed * TOKEN_S if num_computed else _PAUSE_S)

    def _take_calls(self) -> None:
        is_idle = not self._here and not self._kept
        while True:
            try:
                self._calls.get(block=is_idle)()
            except queue.Empty:
                return
            is_idle = False

    def _arrive(self, one: Generation) -> None:
        self._here[one.key] = one
        self.scheduler.arrive(key=one.key, params=one.params, tokens=one.prompt, namespace=b"")

    def _admit(self) -> None:
        for one in [g for g in self._here.values() if g.stage is Stage.WAITING]:
            num_blocks = -(-(len(one.prompt) + one.num_wanted) // BLOCK_SIZE)
            running = sum(g.stage is not Stage.WAITING for g in self._here.values())
            if running >= MAX_BATCH or num_blocks > len(self._free):
                return
            found = self.scheduler.match(key=one.key, tokens=lambda one=one: one.prompt, num_local_tokens=0)
            if found is None:
                continue
            one.blocks = [self._free.pop() for _ in range(num_blocks)]
            one.num_kv = min(found, len(one.prompt))
            self.scheduler.allocated(key=one.key, engine_blocks=one.blocks, num_external_tokens=found)
            one.stage = Stage.LOADING if found else Stage.RUNNING

    def _step(self) -> int:
        """How many tokens were computed."""
        batch = [g for g in self._here.values() if g.stage is Stage.RUNNING]
        scheduled = {g.key: (g.blocks, len(g.tokens)) for g in batch}
        plan = self.scheduler.plan_step(scheduled=scheduled, preempted=())
        self._worker.begin_step(plan)
        num_computed = sum(map(self._compute, batch))
        for layer in LAYERS:
            self._worker.layer_computed(layer)
        self._worker.end_step()
        for one in batch:
            self._say(one)
        self._gather()
        return num_computed

    def _compute(self, one: Generation) -> int:
        """KV of every token that has none yet, from the KV before it as it lies in memory."""
        tokens, first = one.tokens, one.num_kv
        before = self._kv.read(one.blocks, first)[-1:].tobytes()
        self._kv.write(one.blocks, first, extend(before, tokens[first:]))
        one.num_kv = len(tokens)
        return max(1, len(tokens) - first)

    def _say(self, one: Generation) -> None:
        one.output.append(next_token(self._kv.read(one.blocks, one.num_kv)))
        if len(one.output) < one.num_wanted:
            one.on_token(one.output[-1], None)
            return
        one.on_token(one.output[-1], self._finish(one))

    def _finish(self, one: Generation) -> RequestReport | None:
        tokens = one.tokens[: one.num_kv]
        used = one.blocks[: -(-len(tokens) // BLOCK_SIZE)]
        is_kept, report = self.scheduler.finish(
            key=one.key, engine_blocks=used, tokens=tokens, num_output_tokens=len(one.output)
        )
        self._leave(one, is_kept=is_kept)
        return report

    def _abort(self, key: str) -> None:
        one = self._here.get(key)
        if one is None:
            return
        if one.stage is Stage.RUNNING and one.output:
            self._finish(one)
            return
        is_loading = one.stage is Stage.LOADING
        is_kept = self.scheduler.abort(key=key, engine_blocks=one.blocks)
        self._leave(one, is_kept=is_kept or is_loading)

    def _leave(self, one: Generation, *, is_kept: bool) -> None:
        del self._here[one.key]
        one.stage = Stage.GONE
        self._kept[one.key] = one.blocks
        if not is_kept:
            self._release(one.key)

    def _release(self, key: str) -> None:
        self._free.extend(self._kept.pop(key, []))

    def _gather(self) -> None:
        released, loaded = self._worker.take_finished()
        bad = self._worker.take_bad_blocks()
        for key in loaded:
            one = self._here.get(key)
            if one is None:
                self._release(key)
            else:
                self._loaded(one, bad)
        done = JobsDone(results=self._worker.take_results())
        self.scheduler.jobs_ended(done.results)
        for key in released:
            self._release(key)

    def _loaded(self, one: Generation, bad: set[int]) -> None:
        """What failed is computed; what did not must be what the tokens say."""
        failed = [number for number, block in enumerate(one.blocks) if block in bad]
        if failed:
            one.num_kv = min(one.num_kv, failed[0] * BLOCK_SIZE)
        one.stage = Stage.RUNNING
        expected = extend(b"", one.prompt[: one.num_kv])
        found = self._kv.read(one.blocks, one.num_kv).tobytes()
        if found != expected:
            at = next(i for i in range(len(found)) if found[i] != expected[i]) // TOKEN_BYTES
            _log.critical("WRONG KV from token %d of %d was loaded for %s", at, one.num_kv, one.key)

"""One instance that only pretends to compute: a queue of prefills, a batch of decodes, a real pool beside them.

Owns when a request's prompt is done and when its answer is. Prefill goes first and one prompt at a time, decodes
wait meanwhile (the order of vLLM 0.4, the engine of arXiv 2406.17565); all running decodes make a step together.
KV of what runs lies on the device, whose size bounds the batch; the pool keeps prompts in host memory.

    waiting --(ready, KV fits)--> prefilling --> decoding --> done          phase WHOLE
    waiting --(ready, KV fits)--> prefilling --> holding until `release`    phase PREFILL
    arrived --(KV fits)----------------------> decoding --> done            phase DECODE

Never looks at a clock: `advance` says what happened up to a time, `next_at` when the next thing will.
"""

from collections import deque
from heapq import heappop, heappush
from math import inf

import msgspec

from memserve.core.enums import Phase
from memserve.core.ids import InstanceId
from memserve.scheduler.cost_model import CostModel
from memserve.simulator.pool import PromptPool
from memserve.simulator.trace import TraceRequest


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What an instance is asked to do with a request."""

    number: int
    request: TraceRequest
    phase: Phase
    ready_at: float = 0.0
    """When KV that comes from elsewhere has arrived; not begun before."""

    @property
    def kv_tokens(self) -> int:
        """On the device at the end."""
        output = 0 if self.phase is Phase.PREFILL else self.request.output_tokens
        return self.request.prompt_tokens + output


class Prefilled(msgspec.Struct, frozen=True, kw_only=True):
    """The prompt is computed."""

    number: int
    at_s: float
    hit_blocks: int


class FirstToken(msgspec.Struct, frozen=True, kw_only=True):
    """The first token of the answer is out: the prefill gives it, whoever goes on after it."""

    number: int
    at_s: float


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    number: int
    at_s: float


Happened = Prefilled | FirstToken | Finished


class _Prefill(msgspec.Struct, frozen=True, kw_only=True):
    task: Task
    ends_at: float
    hit_blocks: int


class ModelledInstance:
    """Tasks come in by `accept`; each leaves its facts."""

    def __init__(self, *, instance: InstanceId, cost: CostModel, pool: PromptPool) -> None:
        self.instance = instance
        self.busy_s = 0.0
        """Time spent computing."""
        self._cost = cost
        self.pool = pool
        self._waiting: deque[Task] = deque()
        self._ready_times: list[float] = []
        self._arrived: deque[Task] = deque()
        self._prefill: _Prefill | None = None
        # Decodes by the step at which they end; all of them advance together.
        self._decodes: list[tuple[float, int, Task]] = []
        self._holding: dict[int, int] = {}
        self._step = 0.0
        self._step_s = 0.0
        self._context_tokens = 0.0
        self._reserved_tokens = 0
        self._now = 0.0

    def __repr__(self) -> str:
        return f"ModelledInstance({self.instance}: {len(self._waiting)} waiting, {len(self._decodes)} decoding)"

    @property
    def next_at(self) -> float:
        """When something happens next if nothing comes in; infinity when idle."""
        if self._prefill is not None:
            return self._prefill.ends_at
        return min(self._decode_ends_at(), self._someone_ready_at())

    def accept(self, task: Task, *, at_s: float) -> None:
        """Queue the task; `advance` must have been called up to `at_s`."""
        self._pass(at_s)
        (self._arrived if task.phase is Phase.DECODE else self._waiting).append(task)
        heappush(self._ready_times, task.ready_at)
        self._start_next()

    def release(self, number: int, *, at_s: float) -> None:
        """The KV of a prefilled request has been handed over and may go."""
        self._pass(at_s)
        self._reserved_tokens -= self._holding.pop(number)
        self._start_next()

    def advance(self, at_s: float) -> list[Happened]:
        """What has happened by `at_s`, in order of time."""
        happened: list[Happened] = []
        while (next_at := self.next_at) <= at_s:
            is_decode = self._decode_ends_at() <= next_at
            self._pass(next_at)
            if self._prefill is not None:
                happened += self._end_prefill(self._prefill)
            elif is_decode:
                happened += self._end_decode()
            self._start_next()
        return happened

    def _decode_ends_at(self) -> float:
        if self._prefill is not None or not self._decodes:
            return inf
        return self._now + max(self._decodes[0][0] - self._step, 0.0) * self._step_s

    def _someone_ready_at(self) -> float:
        """When the next task may begin that now waits for its KV only."""
        while self._ready_times and self._ready_times[0] <= self._now:
            heappop(self._ready_times)
        return self._ready_times[0] if self._ready_times else inf

    def _pass(self, at_s: float) -> None:
        """Let time go by in which nothing ends."""
        passed = at_s - self._now
        self._now = at_s
        if self._prefill is not None:
            self.busy_s += passed
        elif self._decodes and passed > 0:
            self.busy_s += passed
            steps = passed / self._step_s
            self._step += steps
            self._context_tokens += steps * len(self._decodes)

    def _end_prefill(self, prefill: _Prefill) -> list[Happened]:
        task, request, number = prefill.task, prefill.task.request, prefill.task.number
        self._prefill = None
        self.pool.store(request.blocks)
        happened: list[Happened] = [Prefilled(number=number, at_s=self._now, hit_blocks=prefill.hit_blocks)]
        happened.append(FirstToken(number=number, at_s=self._now))
        if task.phase is Phase.PREFILL:
            self._holding[number] = task.kv_tokens
        elif request.output_tokens <= 1:
            self._reserved_tokens -= task.kv_tokens
            happened.append(self._finished(task))
        else:
            self._join(task, steps=request.output_tokens - 1)
        return happened

    def _end_decode(self) -> list[Happened]:
        self._step, _, task = heappop(self._decodes)
        self._reserved_tokens -= task.kv_tokens
        self._context_tokens = max(self._context_tokens - task.kv_tokens, 0.0) if self._decodes else 0.0
        return [self._finished(task)]

    def _finished(self, task: Task) -> Finished:
        self.pool.store(task.request.afterwards)
        return Finished(number=task.number, at_s=self._now)

    def _join(self, task: Task, *, steps: int) -> None:
        heappush(self._decodes, (self._step + steps, task.number, task))
        self._context_tokens += task.request.prompt_tokens

    def _start_next(self) -> None:
        while self._arrived and self._fits(self._arrived[0]):
            task = self._arrived.popleft()
            self._reserved_tokens += task.kv_tokens
            self._join(task, steps=max(task.request.output_tokens - 1, 1))
        if self._prefill is None:
            ready = next((task for task in self._waiting if task.ready_at <= self._now), None)
            if ready is not None and self._fits(ready):
                self._waiting.remove(ready)
                self._reserved_tokens += ready.kv_tokens
                self._prefill = self._begin(ready)
        if self._prefill is None and self._decodes:
            self._step_s = self._mean_step_s()

    def _fits(self, task: Task) -> bool:
        return self._reserved_tokens + task.kv_tokens <= self._cost.profile.kv_capacity_tokens

    def _begin(self, task: Task) -> _Prefill:
        request = task.request
        hit_blocks = self.pool.fetch(request.blocks)
        held = min(hit_blocks * self.pool.block_tokens, request.prompt_tokens - 1)
        load_s = self._cost.transfer_s(held * self._cost.profile.kv_bytes_per_token, "dram")
        compute_s = self._cost.prefill_s(request.prompt_tokens, held / request.prompt_tokens)
        return _Prefill(task=task, ends_at=self._now + load_s + compute_s, hit_blocks=hit_blocks)

    def _mean_step_s(self) -> float:
        """Of the steps until the next decode ends, whose context grows by one token a step."""
        batch = len(self._decodes)
        steps = self._decodes[0][0] - self._step
        return self._cost.decode_step_s(batch, self._context_tokens + batch * steps / 2)

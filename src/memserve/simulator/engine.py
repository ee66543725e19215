"""One instance that only pretends to compute: a queue of prefills, a batch of decodes, a real pool beside them.

Owns when a request's prompt is done and when its answer is. Prefill goes first and one prompt at a time, decodes
wait meanwhile (the order of vLLM 0.4, the engine of arXiv 2406.17565); all running decodes make a step together.
KV of what runs lies on the device, whose size bounds the batch; the pool keeps prompts in host memory. The trace
does not name the blocks of answers, so they are never cached.

    waiting --(KV fits)--> prefilling --> decoding --> done

Never looks at a clock: `advance` says what happened up to a time, `next_at` when the next thing will.
"""

from collections import deque
from heapq import heappop, heappush
from math import inf

import msgspec

from memserve.core.ids import InstanceId
from memserve.scheduler.cost_model import CostModel
from memserve.simulator.pool import PromptPool
from memserve.simulator.trace import BLOCK_TOKENS, TraceRequest


class Prefilled(msgspec.Struct, frozen=True, kw_only=True):
    """The prompt is computed and the first token is out."""

    number: int
    at_s: float
    hit_blocks: int


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    number: int
    at_s: float


class _Prefill(msgspec.Struct, frozen=True, kw_only=True):
    number: int
    request: TraceRequest
    ends_at: float
    hit_blocks: int


class ModelledInstance:
    """Requests come in by `accept`; each leaves one Prefilled and one Finished."""

    def __init__(self, *, instance: InstanceId, cost: CostModel, pool: PromptPool) -> None:
        self.instance = instance
        self.busy_s = 0.0
        """Time spent computing."""
        self._cost = cost
        self.pool = pool
        self._waiting: deque[tuple[int, TraceRequest]] = deque()
        self._prefill: _Prefill | None = None
        # Decodes by the step at which they end; all of them advance together.
        self._decodes: list[tuple[float, int, TraceRequest]] = []
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
        if self._decodes:
            return self._now + max(self._decodes[0][0] - self._step, 0.0) * self._step_s
        return inf

    def accept(self, number: int, request: TraceRequest, *, at_s: float) -> None:
        """Queue the request; `advance` must have been called up to `at_s`."""
        self._pass(at_s)
        self._waiting.append((number, request))
        self._start_next()

    def advance(self, at_s: float) -> list[Prefilled | Finished]:
        """What has happened by `at_s`, in order of time."""
        happened: list[Prefilled | Finished] = []
        while (next_at := self.next_at) <= at_s:
            self._pass(next_at)
            happened.extend(self._end_prefill(self._prefill) if self._prefill else self._end_decode())
            self._start_next()
        return happened

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

    def _end_prefill(self, prefill: _Prefill) -> list[Prefilled | Finished]:
        request, number = prefill.request, prefill.number
        self._prefill = None
        self.pool.store(request.blocks)
        happened: list[Prefilled | Finished] = [Prefilled(number=number, at_s=self._now, hit_blocks=prefill.hit_blocks)]
        if request.output_tokens <= 1:
            self._reserved_tokens -= _kv_tokens(request)
            happened.append(Finished(number=number, at_s=self._now))
        else:
            heappush(self._decodes, (self._step + request.output_tokens - 1, number, request))
            self._context_tokens += request.prompt_tokens
        return happened

    def _end_decode(self) -> list[Prefilled | Finished]:
        self._step, number, request = heappop(self._decodes)
        tokens = _kv_tokens(request)
        self._reserved_tokens -= tokens
        self._context_tokens = max(self._context_tokens - tokens, 0.0) if self._decodes else 0.0
        return [Finished(number=number, at_s=self._now)]

    def _start_next(self) -> None:
        if self._prefill is None and self._waiting:
            number, request = self._waiting[0]
            tokens = self._reserved_tokens + _kv_tokens(request)
            if tokens <= self._cost.profile.kv_capacity_tokens:
                self._waiting.popleft()
                self._reserved_tokens = tokens
                self._prefill = self._begin(number, request)
        if self._prefill is None and self._decodes:
            self._step_s = self._mean_step_s()

    def _begin(self, number: int, request: TraceRequest) -> _Prefill:
        hit_blocks = self.pool.fetch(request.blocks)
        held = min(hit_blocks * BLOCK_TOKENS, request.prompt_tokens - 1)
        load_s = self._cost.transfer_s(held * self._cost.profile.kv_bytes_per_token, "dram")
        compute_s = self._cost.prefill_s(request.prompt_tokens, held / request.prompt_tokens)
        return _Prefill(number=number, request=request, ends_at=self._now + load_s + compute_s, hit_blocks=hit_blocks)

    def _mean_step_s(self) -> float:
        """Of the steps until the next decode ends, whose context grows by one token a step."""
        batch = len(self._decodes)
        steps = self._decodes[0][0] - self._step
        return self._cost.decode_step_s(batch, self._context_tokens + batch * steps / 2)


def _kv_tokens(request: TraceRequest) -> int:
    return request.prompt_tokens + request.output_tokens

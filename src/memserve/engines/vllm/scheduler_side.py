"""Beside vLLM's scheduler: decides per request what to load, hand over, save and return.

Called from vLLM's scheduler thread, once per request event and once per step; never waits, never
touches block bytes. Trouble with the pool or with a peer is logged and becomes a miss.

A request's life here: arrive -> match (may ask vLLM to come back while a peer answers) ->
allocated (loads ordered) -> steps (by-layer sends) -> finish (save, hand over, return) ->
wound down when no copy reads its engine blocks any more -> released and reported.
"""

import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from memserve.core.clock import Clock
from memserve.core.enums import CachingMode, Phase, TransferMode
from memserve.engines.vllm.hbm_mirror import HbmMirror
from memserve.engines.vllm.job_book import JobBook, Part
from memserve.engines.vllm.jobs import JobKind, JobResult, Pace, StepPlan
from memserve.engines.vllm.outgoing import Outgoing
from memserve.engines.vllm.own_cache import OwnCache, caches_for, positions
from memserve.engines.vllm.reports import report_of
from memserve.engines.vllm.request_state import Loading, RequestState, Saving
from memserve.engines.vllm.reservations import Reservations
from memserve.instance.mempool import MemPool
from memserve.transfer.handoff import HandoffState
from memserve.transfer.pace import PaceByLoad
from memserve.wire.identity import Namespace
from memserve.wire.messages import (
    ArenaRef,
    Load,
    RequestParams,
    RequestReport,
)

logger = logging.getLogger(__name__)

HANDOFF_WAIT_S = 20.0
"""A decode waits this long for KV under way; then it recomputes."""


class SchedulerSide:
    """Decisions for one engine. Not thread-safe: vLLM's scheduler thread owns it."""

    def __init__(
        self,
        *,
        pool: MemPool,
        arena: ArenaRef,
        caching: CachingMode,
        transfer: TransferMode,
        block_size: int,
        num_ranks: int,
        clock: Clock,
    ) -> None:
        self._pool = pool
        self._arena = arena
        self._caching = caching
        self._transfer = transfer
        self._block_size = block_size
        self._clock = clock
        self._states: dict[str, RequestState] = {}
        self._book = JobBook(num_ranks=num_ranks)
        self._cache = OwnCache(pool=pool, arena=arena, book=self._book, block_size=block_size, clock=clock)
        self.hbm = HbmMirror(pool.engine_blocks, block_size=block_size)
        self._pace = PaceByLoad()
        self._reservations = Reservations(pool=pool, caching=caching, clock=clock)

    def load(self) -> Load:
        """What the next heartbeat tells. Read from another thread: one pass over a copy."""
        states = list(self._states.values())
        num_open = sum(not s.is_finished for s in states)
        num_running = sum(not s.is_finished and s.is_running for s in states)
        stats = self._pool.stats()
        return Load(
            num_running=num_running,
            num_waiting=num_open - num_running,
            pool=stats.tiers,
            disk=stats.disk,
            num_offloaded=stats.num_offloaded,
        )

    # ------------------------------------------------------------ arrival and matching

    def arrive(self, *, key: str, params: RequestParams, tokens: Sequence[int], namespace: Namespace) -> None:
        """A request reached the engine. A prefill asks the decode instance for room at once.

        Where another instance holds more of the prompt, that comes here before anything is computed.
        """
        state = RequestState(
            key=key,
            request=params.request,
            phase=params.phase,
            peer=params.peer,
            tokens=_as_bytes(tokens),
            namespace=namespace,
            transfer=self._pace.choose(params.transfer or self._transfer, num_prompts=self._num_prompts() + 1),
            arrived_at=self._clock.now(),
            num_given=params.num_given,
        )
        self._states[key] = state
        if state.phase is Phase.PREFILL and state.peer is not None:
            state.handing_over = self._reservations.ask(state, state.prompt)
        elif state.phase is Phase.DECODE:
            state.wait_until = self._clock.now() + HANDOFF_WAIT_S
            self._pool.engine_path.claim(state.request)
        if params.source is not None and state.phase is not Phase.DECODE and caches_for(state.phase, self._caching):
            state.pulling = self._cache.pull(state, params.source)

    def _num_prompts(self) -> int:
        """Prompts that are computed here for other instances, or wait for it."""
        return sum(state.phase is Phase.PREFILL and not state.is_finished for state in self._states.values())

    def match(self, *, key: str, tokens: Callable[[], Sequence[int]], num_local_tokens: int) -> int | None:
        """Tokens beyond `num_local_tokens` that can be loaded; None: ask again at the next step.

        `tokens` gives the prompt, after a preemption with the output so far; called when it is needed.
        """
        state = self._states.get(key)
        if state is None:
            return 0
        now = self._clock.now()
        # The decode instance must know of the handoff before it gets the request.
        waits_for = (state.handing_over, state.pulling, state.promoting)
        if any(part is not None and not part.is_settled(now) for part in waits_for):
            return None
        state.num_pulled_tokens = state.pulling.num_tokens if state.pulling is not None else 0
        self._cache.drop(state)
        if state.phase is Phase.DECODE:
            handoff = self._pool.engine_path.handoff(state.request, state.handed)
            if handoff.state is HandoffState.PENDING and now < state.wait_until:
                return None
            if handoff.state is HandoffState.READY:
                state.loading = Loading(blocks=handoff.blocks, num_tokens=handoff.num_tokens, lease=None)
        state.num_hbm_tokens = num_local_tokens
        if state.loading is None and caches_for(state.phase, self._caching):
            state.loading = self._cache.look_up(state, tokens())
            if self._waits_for_disk(state, tokens):
                return None
        if state.loading is None or state.loading.num_tokens <= num_local_tokens:
            self._cache.drop(state)
            return 0
        return state.loading.num_tokens - num_local_tokens

    def _waits_for_disk(self, state: RequestState, tokens: Callable[[], Sequence[int]]) -> bool:
        """More of the prompt is on disk than the engine has: once a request, wait for it. The lease stays meanwhile."""
        loading = state.loading
        if loading is None or not loading.num_on_disk or state.promoting is not None:
            return False
        if loading.num_tokens + loading.num_on_disk * self._block_size <= state.num_hbm_tokens:
            return False
        state.promoting = self._cache.promote(state, tokens())
        return state.promoting is not None

    def allocated(self, *, key: str, engine_blocks: Sequence[int], num_external_tokens: int) -> None:
        """vLLM has made room to load `num_external_tokens`, or has decided against it (0)."""
        state = self._states.get(key)
        if state is None:
            return
        state.is_running = True
        self.hbm.handed_out(engine_blocks)
        state.note_start(self._clock.now())
        loading = state.loading
        if loading is None or loading.has_started:
            return
        if num_external_tokens == 0:
            self._cache.drop(state)
            return
        loading.has_started = True
        state.count_loaded(loading, num_external_tokens)
        first = state.num_hbm_tokens // self._block_size
        pairs = tuple(engine_blocks[first : len(loading.blocks)]), positions(loading.blocks[first:])
        self._book.open(state, loading, kind=JobKind.LOAD, arena=self._arena, pairs=pairs)

    # ------------------------------------------------------------ steps

    def plan_step(self, *, scheduled: Mapping[str, tuple[Sequence[int], int]], preempted: Sequence[str]) -> StepPlan:
        """The workers' orders for one step.

        `scheduled` gives, per request of the batch, its engine blocks and the number of its tokens
        that have KV once the step is done.
        """
        for key in preempted:
            self._restart(key)
        for key, (engine_blocks, num_tokens) in scheduled.items():
            state = self._states.get(key)
            if state is not None:
                self.hbm.planned(key, state.prompt, engine_blocks, num_tokens, namespace=state.namespace)
                self._save_prompt(state, engine_blocks, num_tokens=num_tokens)
            outgoing = _by_layer(state) if state is not None else None
            if state is not None and outgoing is not None:
                self._send(state, outgoing, engine_blocks, num_tokens=num_tokens, pace=Pace.BY_LAYER)
        self.hbm.step()
        winding_down = [state for state in self._states.values() if state.is_finished]
        released = tuple(s.key for s in winding_down if self._wind_down(s) and s.is_kept_by_us)
        return StepPlan(jobs=self._book.take_queued(), released=released, settle_first=bool(preempted))

    def _save_prompt(self, state: RequestState, engine_blocks: Sequence[int], *, num_tokens: int) -> None:
        """The steps before this one have computed the prompt: others may pull it while the answer is produced."""
        if state.phase is not Phase.WHOLE or state.is_prompt_saved or num_tokens <= state.num_prompt_tokens:
            return
        state.is_prompt_saved = True
        tokens = self._whole_blocks(state.prompt)
        if tokens and caches_for(state.phase, self._caching):
            self._cache.save(state, tokens, engine_blocks)

    def _whole_blocks(self, tokens: bytes) -> bytes:
        return tokens[: len(tokens) // (4 * self._block_size) * (4 * self._block_size)]

    def jobs_ended(self, results: Mapping[int, JobResult]) -> None:
        """The workers' reports of one step."""
        for state, part, result in self._book.ended(results):
            self._job_ended(state, part, result)

    def _job_ended(self, state: RequestState, part: Part, result: JobResult) -> None:
        if isinstance(part, Outgoing):
            part.record(result)
        elif isinstance(part, Saving):
            self._cache.saved(state, part, result)
            self._save_rest(state)
        else:
            if result.failed:
                self.hbm.check_all()
                state.num_dram_tokens = state.num_disk_tokens = state.num_received_tokens = 0
            elif part.lease is None:
                self._pool.engine_path.finish_handoff(state.request, state.handed)
            self._cache.drop(state)

    def _save_rest(self, state: RequestState) -> None:
        """All of a finished request, after the copy of its prompt, which is not made twice."""
        if state.unsaved and state.saving is None:
            tokens, state.unsaved = state.unsaved, b""
            self._cache.save(state, tokens, state.engine_blocks)

    def _restart(self, key: str) -> None:
        state = self._states.get(key)
        if state is not None:
            state.is_running = False
            self.hbm.dropped(key)
            if state.handing_over is not None:
                state.handing_over.restart()

    # ------------------------------------------------------------ the end of a request

    def finish(
        self, *, key: str, engine_blocks: Sequence[int], tokens: Sequence[int], num_output_tokens: int
    ) -> tuple[bool, RequestReport | None]:
        """The request is done; `tokens` are those with KV in `engine_blocks`.

        Returns whether vLLM must keep the blocks until a StepPlan releases them, and what happened
        so far. Saves, hands over and returns what the caching mode says.
        """
        state = self._states.get(key)
        if state is None:
            return False, None
        state.is_finished = True
        state.ended_at = self._clock.now()
        state.engine_blocks = tuple(engine_blocks)
        state.num_output_tokens = num_output_tokens
        whole = self._whole_blocks(_as_bytes(tokens))
        self.hbm.ended(key, whole, engine_blocks, namespace=state.namespace)
        if caches_for(state.phase, self._caching):
            state.unsaved = whole
            self._save_rest(state)
        if state.phase is Phase.DECODE and state.peer is not None and self._caching is CachingMode.RETURN and whole:
            state.returning = self._reservations.ask(state, whole)
        report = report_of(state, instance=self._pool.info.instance, moved=())
        state.is_kept_by_us = not self._wind_down(state)
        return state.is_kept_by_us, report

    def is_computing(self, key: str) -> bool:
        """It has engine blocks, and no load writes into them any more."""
        state = self._states.get(key)
        return state is not None and state.is_running and state.loading is None

    def abort(self, *, key: str, engine_blocks: Sequence[int]) -> bool:
        """Ended before it answered: nothing is cached. Returns whether vLLM must keep the blocks.

        Blocks that a load still writes are kept by vLLM itself until it hears of the load's end.
        """
        state = self._states.get(key)
        if state is None:
            return False
        state.is_finished = state.is_aborted = True
        self.hbm.dropped(key)
        state.engine_blocks = tuple(engine_blocks)
        if state.loading is not None and not state.loading.has_started:
            self._cache.drop(state)
        is_loading = state.loading is not None and state.loading.has_started
        state.is_kept_by_us = not self._wind_down(state) and not is_loading
        return state.is_kept_by_us

    def _wind_down(self, state: RequestState) -> bool:
        """Order what can be ordered now. True: nothing reads its engine blocks any more; forgotten here."""
        is_waiting = False
        if not state.is_aborted:
            for outgoing in state.outgoing:
                if outgoing.is_settled(self._clock.now()):
                    num_tokens = len(outgoing.request.tokens) // 4
                    self._send(state, outgoing, state.engine_blocks, num_tokens=num_tokens, pace=Pace.AT_ONCE)
                else:
                    is_waiting = True
        if state.open_jobs or is_waiting:
            return False
        self._conclude(state)
        return True

    def _conclude(self, state: RequestState) -> None:
        del self._states[state.key]
        for outgoing in state.outgoing:
            if not outgoing.is_complete or outgoing.has_failed:
                logger.info("KV of request %s did not go to %s", state.request, outgoing.peer.instance)
                self._pool.engine_path.abort(outgoing.peer, outgoing.request.transfer)
        if state.phase is Phase.DECODE:
            self._pool.engine_path.finish_handoff(state.request, state.handed)
        if not state.is_aborted:
            own = self._pool.info.instance
            moved = [o.moved(source=own, block_size=self._block_size) for o in state.outgoing]
            if state.pulling is not None:
                moved.append(state.pulling.moved(target=own, block_size=self._block_size))
            self._pool.report(
                report_of(state, instance=self._pool.info.instance, moved=tuple(m for m in moved if m is not None))
            )

    # ------------------------------------------------------------ sending

    def _send(
        self, state: RequestState, outgoing: Outgoing, engine_blocks: Sequence[int], *, num_tokens: int, pace: Pace
    ) -> None:
        """Order the blocks that `num_tokens` tokens with KV make ready and that were not ordered before."""
        is_all = num_tokens >= len(outgoing.request.tokens) // 4
        num_ready = len(engine_blocks) if is_all else num_tokens // self._block_size
        pairs = outgoing.take(engine_blocks, num_ready)
        commit = outgoing.take_commit()
        if pairs[0] or commit is not None:
            self._book.open(
                state,
                outgoing,
                kind=JobKind.SEND,
                arena=outgoing.arena,
                pairs=pairs,
                pace=pace,
                commit=commit,
                room=outgoing.remote_room,
            )


def _as_bytes(tokens: Sequence[int]) -> bytes:
    return np.asarray(tokens, dtype="<i4").tobytes()


def _by_layer(state: RequestState) -> Outgoing | None:
    """The hand-over that leaves layer by layer during the forward, if the request has one."""
    return state.handing_over if state.transfer is TransferMode.BY_LAYER else None

"""The engine's own pool as a cache of prompts: looked up before computing, filled after it or from another pool.

Owns no blocks: a Loading or a Saving names those that a request holds. Never waits; a pool that is full, or
a holder that does not send, is a miss.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial

import numpy as np

from memserve.core.clock import Clock
from memserve.core.enums import CachingMode, Phase, Tier
from memserve.core.errors import InstanceUnavailable, InvalidBlocks, PoolExhausted, TransferFailed
from memserve.core.ids import BlockId, InstanceId, RequestId, block_index, num_mappable
from memserve.engines.vllm.awaited import Awaited
from memserve.engines.vllm.incoming import Incoming
from memserve.engines.vllm.job_book import JobBook
from memserve.engines.vllm.jobs import JobKind, JobResult
from memserve.engines.vllm.request_state import Loading, RequestState, Saving
from memserve.instance.mempool import MemPool
from memserve.wire.messages import ArenaRef, PeerInfo

logger = logging.getLogger(__name__)

PULL_WAIT_S = 2.0
"""A request waits this long for KV that another instance holds; then it is computed."""
PROMOTE_WAIT_S = 2.0
"""A request waits this long for KV on the own disk; then what is not there is computed."""


def caches_for(phase: Phase, caching: CachingMode) -> bool:
    """Whether whoever has this part in a request keeps its KV in this mode (see CachingMode).

    The part counts, not the instance's role: that may change while it runs.
    """
    if phase is Phase.DECODE:
        return caching in {CachingMode.BOTH, CachingMode.RETURN}
    return caching is not CachingMode.BASIC


class OwnCache:
    """Of one engine. Not thread-safe: vLLM's scheduler thread owns it."""

    def __init__(self, *, pool: MemPool, arena: ArenaRef, book: JobBook, block_size: int, clock: Clock) -> None:
        self._pool = pool
        self._arena = arena
        self._book = book
        self._block_size = block_size
        self._clock = clock

    def look_up(self, state: RequestState, tokens: Sequence[int]) -> Loading | None:
        """The longest cached prefix, held until `drop`; only what is in DRAM can be loaded."""
        match = self._pool.local.match(np.asarray(tokens, dtype="<i4"), owner=state.key, namespace=state.namespace)
        if match.lease is None:
            return None
        num_ready = num_mappable(match.blocks)
        return Loading(
            blocks=match.blocks[:num_ready],
            num_tokens=num_ready * self._block_size,
            lease=match.lease,
            num_on_disk=len(match.blocks) - num_ready,
        )

    def promote(self, state: RequestState, tokens: Sequence[int]) -> Awaited | None:
        """Have what continues the loadable prefix on disk moved to DRAM; None when that cannot be asked for."""
        data = np.asarray(tokens, dtype="<i4").tobytes()
        try:
            moved = self._pool.tiers.promote(data, namespace=state.namespace, deadline_s=PROMOTE_WAIT_S)
        except (PoolExhausted, InstanceUnavailable) as error:
            logger.info("request %s is computed: %s", state.request, error)
            return None
        return Awaited(moved, clock=self._clock, wait_s=PROMOTE_WAIT_S)

    def drop(self, state: RequestState) -> None:
        """Give up what the request held for a load that is not, or no longer, wanted."""
        loading, state.loading = state.loading, None
        if loading is not None and loading.lease is not None:
            self._pool.local.release(loading.lease)

    def pull(self, state: RequestState, source: PeerInfo) -> Incoming | None:
        """Have `source` send what it holds of the prompt and this pool lacks; None where there is nothing to ask."""
        if source.instance == self._pool.info.instance or state.num_prompt_tokens < self._block_size:
            return None
        arrived = self._pool.pull(source, state.prompt, namespace=state.namespace, deadline_s=PULL_WAIT_S)
        arrived.add_done_callback(partial(_log_failure, source.instance, state.request))
        path = self._pool.path_to(source)
        return Incoming(source=source, path=path, arrived=arrived, clock=self._clock, wait_s=PULL_WAIT_S)

    def save(self, state: RequestState, tokens: bytes, engine_blocks: Sequence[int]) -> None:
        """Write through to the own DRAM tier what it lacks of these, with KV in `engine_blocks`; a full pool saves
        nothing."""
        match = self._pool.local.match(tokens, owner=state.key, namespace=state.namespace)
        num_held = len(match.blocks)
        num_new = len(tokens) // 4 // self._block_size - num_held
        try:
            new = self._pool.local.allocate(num_new, tier=Tier.DRAM, owner=state.key) if num_new else ()
        except PoolExhausted as full:
            logger.info("request %s is not cached: %s", state.request, full)
            new = ()
        if not new:
            if match.lease is not None:
                self._pool.local.release(match.lease)
            return
        state.saving = Saving(tokens=tokens, blocks=(*match.blocks, *new), new=new, lease=match.lease)
        pairs = tuple(engine_blocks[num_held : num_held + num_new]), positions(new)
        self._book.open(state, state.saving, kind=JobKind.SAVE, arena=self._arena, pairs=pairs)

    def saved(self, state: RequestState, saving: Saving, result: JobResult) -> None:
        """The copy has ended: index it, or give the blocks back, also when the prefix was deleted meanwhile."""
        state.saving = None
        try:
            if result.failed:
                raise TransferFailed(f"the copy of {len(saving.new)} blocks failed")
            self._pool.local.insert(saving.tokens, saving.blocks, namespace=state.namespace)
        except (TransferFailed, InvalidBlocks) as error:
            logger.warning("request %s is not cached: %s", state.request, error)
            self._pool.local.free(saving.new)
        if saving.lease is not None:
            self._pool.local.release(saving.lease)

    def __repr__(self) -> str:
        return f"OwnCache({self._pool})"


def positions(blocks: Sequence[BlockId]) -> tuple[int, ...]:
    """Where blocks lie in the arena."""
    return tuple(block_index(block) for block in blocks)


def _log_failure(source: InstanceId, request: RequestId, arrived: "Future[int]") -> None:
    error = None if arrived.cancelled() else arrived.exception()
    if error is not None:
        logger.warning("%s sent no KV for request %s, which costs a recomputation: %s", source, request, error)

"""Room at a peer for KV that goes there: asked for before the copy, answered while the engine goes on.

Owns what is asked for a hand-over and for the way back, and how long each waits. Never waits itself and sends no
bytes: what is granted is an Outgoing, and the scheduler side orders its copies.
"""

import logging
from concurrent.futures import Future
from functools import partial

from memserve.core.clock import Clock
from memserve.core.enums import CachingMode, DataPath, Phase, TransferMode
from memserve.core.ids import InstanceId, RequestId, TransferId
from memserve.engines.vllm.outgoing import Outgoing
from memserve.engines.vllm.own_cache import caches_for
from memserve.engines.vllm.request_state import RequestState
from memserve.instance.mempool import MemPool
from memserve.wire.messages import ReserveReply, ReserveRequest

logger = logging.getLogger(__name__)

RESERVE_WAIT_S = 2.0
"""A prefill waits this long for the decode instance to make room; then it computes without handing over."""
RETURN_WAIT_S = 10.0
"""KV that goes back after decoding holds nobody up; its engine blocks wait this long for room."""
RESERVATION_TTL_S = 600.0
"""The receiver's last resort; the reservations of a dead sender go when the cluster manager tells."""


class Reservations:
    """Asks in the name of one engine's pool, each time under a new transfer id."""

    def __init__(self, *, pool: MemPool, caching: CachingMode, clock: Clock) -> None:
        self._pool = pool
        self._caching = caching
        self._clock = clock
        self._num_transfers = 0

    def ask(self, state: RequestState, tokens: bytes) -> Outgoing:
        """Ask the peer for room: a handoff before decoding (with the tail), the way back after it (without)."""
        assert state.peer is not None  # noqa: S101 - callers have checked
        self._num_transfers += 1
        path = self._pool.path_to(state.peer)
        is_handoff = state.phase is Phase.PREFILL
        keeps = not is_handoff or caches_for(Phase.DECODE, self._caching)
        request = ReserveRequest(
            transfer=TransferId(f"{self._pool.info.instance}/{self._pool.info.incarnation}/{self._num_transfers}"),
            request=state.request,
            sender=self._pool.info.instance,
            incarnation=self._pool.info.incarnation,
            tokens=tokens,
            namespace=state.namespace,
            reuse=keeps,
            tail=is_handoff,
            handoff=is_handoff,
            ttl_s=RESERVATION_TTL_S,
            path=path or DataPath.SHM,
        )
        reply = self._pool.engine_path.reserve(state.peer, request)
        reply.add_done_callback(partial(_log_refusal, state.peer.instance, state.request))
        return Outgoing(
            peer=state.peer,
            path=path,
            mode=state.transfer if is_handoff else TransferMode.BY_REQUEST,
            request=request,
            reply=reply,
            insert=keeps,
            deadline=self._clock.now() + (RESERVE_WAIT_S if is_handoff else RETURN_WAIT_S),
        )


def _log_refusal(instance: InstanceId, request: RequestId, reply: "Future[ReserveReply]") -> None:
    error = None if reply.cancelled() else reply.exception()
    if error is not None:
        logger.warning("%s takes no KV of request %s, which costs a recomputation: %s", instance, request, error)

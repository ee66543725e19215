"""Demotes to memory instances: what DRAM wants least is offered to one of them, and dropped here once it is there.

Lives in the agent's event loop and takes the pool's lock for decisions only; the memory instance pulls the bytes.
Works between the same two marks as a disk of the pool's own, and only where there is none: that is nearer. What
no memory instance takes is evicted when its room is needed, as without them.

    OfferRequest (tokens) ──> memory instance: pulls what it lacks (puller.py) ──> OfferReply ──> dropped here
"""

import logging
from collections.abc import Sequence

import xxhash

from memserve.config import Watermarks
from memserve.core.clock import Clock
from memserve.core.enums import Tier
from memserve.core.errors import MemserveError
from memserve.instance.core import PoolCore
from memserve.instance.peer_links import PeerLinks
from memserve.instance.puller import PULL_DEADLINE_S
from memserve.pool.cold import ColdRun
from memserve.wire.messages import OfferReply, OfferRequest, PeerInfo

_ANSWER_S = PULL_DEADLINE_S + 2.0
_REST_S = 5.0
"""After all memory instances refused they are not asked again for so long."""
_TOKEN_BYTES = 4

_log = logging.getLogger(__name__)


class Offload:
    """Of one pool."""

    def __init__(self, *, core: PoolCore, links: PeerLinks, marks: Watermarks, clock: Clock) -> None:
        self._core = core
        self._links = links
        self._marks = marks
        self._clock = clock
        self._peers: tuple[PeerInfo, ...] = ()
        self._rests_until = 0.0
        self._num_offloaded = self._num_refused = 0

    @property
    def num_offloaded(self) -> int:
        """Blocks that went to memory instances and were dropped here."""
        return self._num_offloaded

    @property
    def num_refused(self) -> int:
        """Blocks that no memory instance took."""
        return self._num_refused

    def use(self, peers: Sequence[PeerInfo]) -> None:
        """The memory instances that there are now."""
        has_disk = Tier.DISK in self._core.memory.capacity
        self._peers = () if has_disk else tuple(sorted(peers, key=lambda peer: peer.instance))

    async def tick(self) -> None:
        """When DRAM has passed its high mark: offer and drop until the low mark, or until nobody takes any more."""
        with self._core.lock:
            is_over = self._core.ledger.num_over(Tier.DRAM, self._marks.high) > 0
        if not is_over or not self._peers or self._clock.now() < self._rests_until:
            return
        while (run := self._next_run()) is not None:
            if not await self._offer(run):
                self._num_refused += len(run.blocks)
                self._rests_until = self._clock.now() + _REST_S
                return
            with self._core.lock:
                self._num_offloaded += self._core.ledger.cold.drop(run)

    def _next_run(self) -> ColdRun | None:
        with self._core.lock:
            num_over = self._core.ledger.num_over(Tier.DRAM, self._marks.low)
            return self._core.ledger.cold.next_run(Tier.DRAM, max_blocks=num_over) if num_over > 0 else None

    async def _offer(self, run: ColdRun) -> bool:
        """To one memory instance after the other until one has it."""
        request = OfferRequest(tokens=run.tokens, namespace=run.namespace)
        for peer in self._in_turn(run):
            try:
                await self._links.call(peer, request, OfferReply, deadline_s=_ANSWER_S)
            except MemserveError as error:
                _log.info("%s did not take %d blocks: %s", peer.instance, len(run.blocks), error)
            else:
                return True
        return False

    def _in_turn(self, run: ColdRun) -> tuple[PeerInfo, ...]:
        """The same order for all prompts with the same first block: they share it there, too."""
        peers = self._peers
        first = run.namespace + run.tokens[: self._core.ledger.block_size * _TOKEN_BYTES]
        at = xxhash.xxh3_64_intdigest(first) % max(1, len(peers))
        return peers[at:] + peers[:at]

    def __repr__(self) -> str:
        return f"Offload({len(self._peers)} memory instances, {self._num_offloaded} blocks gone there)"

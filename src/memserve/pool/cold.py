"""The ends of prompts that a pool wants least: chosen while they stay, dropped when somebody else has them.

Works on the ledger's own index, under the ledger's lock. Between the two calls anything may happen to a run: what
was used or continued meanwhile is not dropped.
"""

import msgspec

from memserve.core.enums import Tier
from memserve.core.ids import BlockId
from memserve.pool.eviction_queue import EvictionQueue
from memserve.pool.radix_index import RadixIndex
from memserve.pool.radix_node import is_anchored_below
from memserve.pool.reclaim import Reclaimer
from memserve.pool.room import RoomMaker
from memserve.wire.identity import Namespace


class ColdRun(msgspec.Struct, frozen=True, kw_only=True):
    """The last blocks of one indexed prompt."""

    namespace: Namespace
    tokens: bytes
    """From the start of the prompt to its last block."""
    blocks: tuple[BlockId, ...]


class ColdEnds:
    """Of one ledger."""

    def __init__(self, *, queue: EvictionQueue, index: RadixIndex, room: RoomMaker) -> None:
        self._queue = queue
        self._index = index
        self._room = room

    def __repr__(self) -> str:
        return f"ColdEnds({self._index})"

    def next_run(self, tier: Tier, *, max_blocks: int) -> ColdRun | None:
        """What would be evicted next for so many blocks of the tier; None when nothing may go."""
        reclaimer = Reclaimer(self._queue, tier)
        cut = reclaimer.next_cut(max_blocks)
        reclaimer.close()
        if cut is None:
            return None
        node, keep = cut
        namespace, tokens = self._index.path(node, len(node.blocks))
        return ColdRun(namespace=namespace, tokens=tokens, blocks=tuple(node.blocks[keep:]))

    def drop(self, run: ColdRun) -> int:
        """Remove the run from the index; how many blocks went. None do when it has changed or is in use."""
        place = self._index.find(run.tokens, namespace=run.namespace)
        if place is None or len(place.blocks) * self._index.block_token_bytes != len(run.tokens):
            return 0
        node, keep = place.node, place.offset - len(run.blocks)
        as_it_was = keep >= 0 and tuple(node.blocks[keep:]) == run.blocks and not node.children
        if not as_it_was or node.num_anchored() > keep or is_anchored_below(node):
            return 0
        return self._room.prune(node, keep)

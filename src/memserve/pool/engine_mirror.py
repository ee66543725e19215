"""What the engine's own prefix cache holds, as far as the engine's side has told: a mirror, never the cache itself.

Owns an index over the engine's blocks and announces its changes beside those of the pool's own index. The pool has
no say in these blocks and no peer can read them: they are found and told of, never leased, moved or handed out.

    told of a prompt ──> announced as stored ──> told that a block is gone ──> it and all below announced as evicted

A block whose beginning is gone is of no use to the engine either, so it leaves with it; when the engine uses it
again, it is told of again.
"""

from collections.abc import Iterable, Sequence

from memserve.core.enums import Tier
from memserve.core.ids import BlockId, block_index, make_block_id
from memserve.pool.events import EventLog
from memserve.pool.radix_index import RadixIndex
from memserve.pool.tokens import Tokens
from memserve.wire.identity import Namespace
from memserve.wire.messages import TierStats


class EngineMirror:
    """Not safe for threads: the caller holds the pool's lock."""

    def __init__(self, *, block_size: int, events: EventLog) -> None:
        self.index = RadixIndex(block_size=block_size)
        self.num_blocks = 0
        """That the engine has in all; 0 as long as no engine is mirrored."""
        self._events = events
        self._held: set[BlockId] = set()

    def __len__(self) -> int:
        """Blocks held, each position of a prompt counted once."""
        return len(self._held)

    def __repr__(self) -> str:
        return f"EngineMirror({len(self)} of {self.num_blocks} blocks)"

    def stored(self, tokens: Tokens, engine_blocks: Sequence[int], *, namespace: Namespace = b"") -> tuple[int, ...]:
        """The engine holds the first len(engine_blocks) whole blocks of tokens there; those that are mirrored now.

        Where it has a copy already, the first one stays. Raises InvalidTokens when tokens are too few.
        """
        data = self.index.whole_blocks(tokens, num_blocks=len(engine_blocks))
        place = self.index.find(data, namespace=namespace)
        num_held = len(place.blocks) if place else 0
        new = [_name(block) for block in engine_blocks[num_held:]]
        if not new:
            return ()
        if not self._held.isdisjoint(new):
            self.gone(map(block_index, self._held.intersection(new)))
            return self.stored(data, engine_blocks, namespace=namespace)
        self.index.graft(place, data, new, namespace=namespace)
        self._held.update(new)
        self._events.stored(namespace=namespace, tokens=data, num_blocks=len(new), tier=Tier.HBM, is_mirrored=True)
        return tuple(engine_blocks[num_held:])

    def gone(self, engine_blocks: Iterable[int]) -> None:
        """The engine has other things in these blocks now. Those that are not mirrored are passed over."""
        for block in map(_name, engine_blocks):
            if block not in self._held:
                continue
            node, position = self.index.locate(block)
            namespace, tokens = self.index.path(node, position + 1)
            removed = self.index.prune(node, position).blocks
            self._held.difference_update(removed)
            self._events.evicted(namespace=namespace, tokens=tokens, num_blocks=len(removed), is_mirrored=True)

    def num_tokens(self, tokens: Tokens, *, namespace: Namespace = b"") -> int:
        """Leading tokens that the engine holds, whole blocks only."""
        return len(self.index.match(tokens, namespace=namespace)) * self.index.block_size if self._held else 0

    def stats(self) -> tuple[TierStats, ...]:
        """One record, or none as long as no engine is mirrored. What is not cached counts as free."""
        if not self.num_blocks:
            return ()
        return (
            TierStats(
                tier=Tier.HBM,
                num_blocks=self.num_blocks,
                num_free=self.num_blocks - len(self),
                num_reserved=0,
                num_cached=len(self),
                num_leased=0,
            ),
        )


def _name(engine_block: int) -> BlockId:
    """The pool never frees them, so one generation is enough."""
    return make_block_id(Tier.HBM, 0, engine_block)

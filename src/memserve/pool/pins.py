"""Prefixes that eviction spares until they are unpinned, within a share of each tier.

Owns the pins and their quota. A pin protects as a lease does but reads nothing: what is deleted under it is free at
once, and it never ends by itself. While a prefix is pinned it has no deadline; afterwards it lives as long as if it
had just been inserted.
"""

import hashlib
from collections.abc import Iterator, Sequence

import msgspec

from memserve.config import Keeping
from memserve.core.clock import Clock
from memserve.core.enums import Tier
from memserve.core.errors import InvalidTokens, QuotaExceeded
from memserve.core.ids import PinId
from memserve.pool.block import by_tier
from memserve.pool.lease import deadline_after
from memserve.pool.radix_index import Place, RadixIndex
from memserve.pool.radix_node import Anchor, covered
from memserve.pool.reclaim import num_protected
from memserve.pool.room import RoomMaker
from memserve.pool.stock import BlockStock
from memserve.pool.tokens import Tokens
from memserve.wire.identity import Namespace
from memserve.wire.messages import Pinned


class _Pin(msgspec.Struct, frozen=True, kw_only=True):
    num_tokens: int
    """Asked for, in whole blocks."""
    anchor: Anchor


class PinBook:
    """All pins of one pool."""

    def __init__(
        self, *, index: RadixIndex, stock: BlockStock, room: RoomMaker, keeping: Keeping, clock: Clock
    ) -> None:
        self._index = index
        self._stock = stock
        self._room = room
        self._keeping = keeping
        self._clock = clock
        self._pins: dict[PinId, _Pin] = {}

    def __repr__(self) -> str:
        return f"PinBook({len(self._pins)} pins, at most {self._keeping.pin_share:g} of each tier)"

    def __iter__(self) -> Iterator[Pinned]:
        """All of them, the oldest first."""
        return (self._told(name) for name in self._pins)

    def anchors(self) -> Iterator[Anchor]:
        return (pin.anchor for pin in self._pins.values())

    def num_pinned(self, tier: Tier) -> int:
        """Blocks of the tier under at least one pin."""
        return num_protected(self.anchors(), tier)

    def pin(self, tokens: Tokens, *, namespace: Namespace = b"") -> Pinned:
        """Spare what is indexed of the whole blocks of tokens until `unpin`; nothing is pinned where nothing is.

        A pin of the same tokens is replaced. Raises QuotaExceeded beyond the share of a tier that may be pinned,
        InvalidTokens below one whole block; everything stays as it was then.
        """
        data = self._index.whole_blocks(tokens)
        if not data:
            raise InvalidTokens(f"a pin needs at least one whole block of {self._index.block_size} tokens")
        self._room.expire(self._clock.now())
        name = pin_id(data, namespace)
        num_tokens = len(data) // self._index.block_token_bytes * self._index.block_size
        place = self._index.find(data, namespace=namespace)
        if place is None:
            return Pinned(pin=name, num_tokens=num_tokens)
        anchor = self._allowed(name, place)
        earlier = self._pins.pop(name, None)
        if earlier is not None:
            self._room.release_pin(earlier.anchor)
        self._pins[name] = _Pin(num_tokens=num_tokens, anchor=anchor)
        self._room.pins.add(anchor)
        self._room.lifetimes.forget(place.blocks)
        return self._told(name)

    def unpin(self, name: PinId) -> bool:
        """What only it spared may be evicted again. False when there is no such pin."""
        pin = self._pins.pop(name, None)
        if pin is None:
            return False
        before = covered([pin.anchor])
        after = covered(self.anchors())
        self._room.release_pin(pin.anchor)
        # From the leaf up, so reversed: the first blocks of the prompt come first.
        runs = [node.blocks[after.get(node, 0) : end] for node, end in reversed(before.items())]
        deadline = deadline_after(self._clock.now(), self._keeping.ttl_s)
        self._room.lifetimes.begin((block for run in runs for block in run), deadline)
        return True

    def _allowed(self, name: PinId, place: Place) -> Anchor:
        """An anchor there. Raises QuotaExceeded when the other pins leave too little for it."""
        anchor = self._index.anchor(place)
        self._room.protected.add(len(place.blocks))
        others = [pin.anchor for other, pin in self._pins.items() if other != name]
        try:
            for tier, _ in by_tier(place.blocks):
                self._require_room(tier, [*others, anchor], num_new=len(place.blocks))
        except QuotaExceeded:
            self._room.drop_anchor(anchor)
            raise
        return anchor

    def _told(self, name: PinId) -> Pinned:
        pin = self._pins[name]
        num_blocks = sum(offset for _, offset in pin.anchor.path())
        return Pinned(
            pin=name,
            num_tokens=pin.num_tokens,
            num_pinned_tokens=num_blocks * self._index.block_size,
            num_blocks=num_blocks,
        )

    def _require_room(self, tier: Tier, anchors: Sequence[Anchor], *, num_new: int) -> None:
        num_blocks = self._stock.allocators[tier].num_blocks
        limit = int(self._keeping.pin_share * num_blocks)
        num_pinned = num_protected(anchors, tier)
        if num_pinned > limit:
            raise QuotaExceeded(
                f"a pin of {num_new} blocks makes {num_pinned} pinned ones of {tier.name}, where {limit} of "
                f"{num_blocks} may be (pin_share = {self._keeping.pin_share:g}): unpin something or raise pin_share"
            )


def pin_id(data: bytes, namespace: Namespace) -> PinId:
    """The same for the same tokens and namespace on every instance."""
    digest = hashlib.blake2b(len(namespace).to_bytes(4, "little") + namespace + data, digest_size=16)
    return PinId(digest.hexdigest())

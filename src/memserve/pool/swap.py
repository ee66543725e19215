"""A move of blocks between tiers of one pool: begun, then finished or cancelled exactly once."""

import msgspec

from memserve.core.ids import BlockId


class Swap(msgspec.Struct, frozen=True, kw_only=True):
    """Copy the bytes of each source to its target, then finish; or cancel."""

    id: int
    pairs: tuple[tuple[BlockId, BlockId], ...]
    """(source, target); both stay what they are until the swap ends."""

"""What one instance has sent for a request that will be served here."""

from enum import StrEnum

import msgspec

from memserve.core.ids import BlockId


class HandoffState(StrEnum):
    ABSENT = "absent"
    """Nobody has announced KV for these tokens, or it is gone: compute them."""
    PENDING = "pending"
    """Room is reserved and the sender may still be writing: ask again."""
    READY = "ready"
    """All blocks are whole and stay until finish_handoff, release_request or expiry."""


class Handoff(msgspec.Struct, frozen=True, kw_only=True):
    state: HandoffState
    blocks: tuple[BlockId, ...] = ()
    """In token order, the partial tail block last; empty unless READY."""
    num_tokens: int = 0
    """Tokens that the blocks hold, or will hold when PENDING."""


ABSENT = Handoff(state=HandoffState.ABSENT)

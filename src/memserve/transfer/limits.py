"""What a peer may ask for: checks of values that come from the wire, before anything changes."""

from collections.abc import Sequence

import numpy as np

from memserve.core.enums import Tier
from memserve.core.errors import InvalidBlocks, InvalidTokens, ProtocolError
from memserve.core.ids import GENERATION_MASK, BlockId, make_block_id
from memserve.transfer.record import TOKEN_BYTES

MAX_TTL_S = 3600.0
MAX_PRIVATE_BYTES = 1 << 20
"""Longest opaque user data of one transfer."""
MAX_NAME_CHARS = 256
"""Longest id and longest namespace that is remembered for a peer."""


def num_tokens(tokens: bytes) -> int:
    """Raises InvalidTokens when there are none, the last one is cut or one is negative."""
    if not tokens or len(tokens) % TOKEN_BYTES:
        raise InvalidTokens(f"{len(tokens)} bytes of tokens: expected a positive multiple of {TOKEN_BYTES}")
    if np.frombuffer(tokens, "<i4").min() < 0:
        raise InvalidTokens("a token is negative: token ids go from 0 to 2**31 - 1")
    return len(tokens) // TOKEN_BYTES


def check_mappable(blocks: Sequence[BlockId]) -> None:
    """Raises InvalidBlocks unless all are of the tier that lies in the sender's arena."""
    low, high = make_block_id(Tier.DRAM, 0, 0), make_block_id(Tier.DRAM, GENERATION_MASK, (1 << 32) - 1)
    if not all(low <= block <= high for block in blocks):
        raise InvalidBlocks(f"source blocks must be of {Tier.DRAM.name}: other tiers cannot be mapped")


def check_ttl(ttl_s: float) -> None:
    """Raises ProtocolError; NaN is refused, too."""
    if not 0 < ttl_s <= MAX_TTL_S:
        raise ProtocolError(f"ttl_s = {ttl_s}: expected more than 0 and at most {MAX_TTL_S:g} seconds")


def check_names(*names: str | bytes) -> None:
    """Raises ProtocolError when one is too long to be remembered."""
    longest = max(map(len, names))
    if longest > MAX_NAME_CHARS:
        raise ProtocolError(f"an id or namespace of {longest} characters: the longest allowed is {MAX_NAME_CHARS}")


def check_distinct(blocks: Sequence[BlockId], what: str) -> None:
    """Raises InvalidBlocks when there is none or one comes twice."""
    if not blocks or len(set(blocks)) != len(blocks):
        raise InvalidBlocks(f"{len(blocks)} {what} blocks, {len(set(blocks))} of them distinct: name each one once")


def check_private(private: bytes) -> None:
    if len(private) > MAX_PRIVATE_BYTES:
        raise ProtocolError(f"{len(private)} bytes of private data exceed the limit of {MAX_PRIVATE_BYTES} bytes")

"""Prompts as the scheduler takes them in, and as the bytes that its trees compare.

Owns the one conversion. Never looks at what the tokens mean.
"""

from array import array
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from memserve.core.errors import InvalidTokens

TOKEN_BYTES = 4
"""A token is a little-endian int32, as on the wire."""

Tokens: TypeAlias = npt.NDArray[np.int32] | bytes | Sequence[int]


def token_bytes(tokens: Tokens) -> bytes:
    """4 bytes a token. Bytes are taken as they are; raises InvalidTokens on what is no list of token ids."""
    if isinstance(tokens, bytes):
        if len(tokens) % TOKEN_BYTES:
            raise InvalidTokens(f"{len(tokens)} bytes are not a whole number of int32 tokens")
        return tokens
    if isinstance(tokens, np.ndarray):
        if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
            raise InvalidTokens(f"tokens of shape {tokens.shape} and type {tokens.dtype}; give a flat int32 array")
        return tokens.astype("<i4", copy=False).tobytes()
    try:
        return _from_integers(tokens)
    except (TypeError, OverflowError) as error:
        raise InvalidTokens(f"{len(tokens)} tokens cannot be read as int32: {error}") from error


def _from_integers(tokens: Sequence[int]) -> bytes:
    packed = array("i", tokens)
    return np.frombuffer(packed, dtype=np.intc).astype("<i4", copy=False).tobytes() if packed else b""

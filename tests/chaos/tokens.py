"""A model small enough to be exact: KV is a function of all tokens before it, the next token one of all KV.

Each token's KV hashes the KV before it, as it lies in memory, together with the token, and the next token hashes the
KV of the whole context. So one byte of KV that is lost, stale or somebody else's changes every token from there on.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

NUM_LAYERS = 2
NUM_HEADS = 2
HEAD_BYTES = 16
"""Of one head of one layer for one token."""
TOKEN_BYTES = NUM_LAYERS * NUM_HEADS * HEAD_BYTES
FIRST_WORD = 1000
NUM_WORDS = 256
"""Output tokens are FIRST_WORD and those that follow it."""
_START = bytes(TOKEN_BYTES)


def extend(before: bytes, tokens: Sequence[int]) -> bytes:
    """KV of `tokens` that follow a token with the KV `before`; b"" where they are the first."""
    state, parts = before or _START, []
    for token in tokens:
        state = hashlib.blake2b(state + token.to_bytes(4, "little"), digest_size=TOKEN_BYTES).digest()
        parts.append(state)
    return b"".join(parts)


def next_token(kv: bytes | np.ndarray) -> int:
    """What follows a context whose KV this is, TOKEN_BYTES for each of its tokens."""
    return FIRST_WORD + int.from_bytes(hashlib.blake2b(kv, digest_size=2).digest(), "little") % NUM_WORDS


def answer(prompt: Sequence[int], num_tokens: int) -> list[int]:
    """The run without faults: one context computed alone, from the first token to the last."""
    kv, found = extend(b"", prompt), []
    for _ in range(num_tokens):
        found.append(next_token(kv))
        kv += extend(kv[-TOKEN_BYTES:], found[-1:])
    return found

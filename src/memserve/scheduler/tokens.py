"""Prompts as the scheduler takes them in, and as the bytes that its trees compare.

Owns the one conversion. Never looks at what the tokens mean.
"""

from memserve.pool.tokens import TOKEN_BYTES, Tokens, copy_token_bytes

__all__ = ["TOKEN_BYTES", "Tokens", "token_bytes"]


def token_bytes(tokens: Tokens) -> bytes:
    """4 bytes a token, little-endian. Bytes are taken as they are.

    Raises InvalidTokens on what is no list of token ids; a negative one comes through and is held by nobody.
    """
    return copy_token_bytes(tokens)

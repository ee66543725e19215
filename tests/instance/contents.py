"""Prompts and the bytes that belong to them, so that any block can be recognised as right or wrong."""

from tests.instance.conftest import BLOCK_BYTES, BLOCK_SIZE

PROMPT_BLOCKS = 8


def prompt(number: int) -> list[int]:
    """Tokens that no other number's prompt shares."""
    return [number * 1000 + position for position in range(PROMPT_BLOCKS * BLOCK_SIZE)]


def contents(number: int) -> bytes:
    """One different pattern for each block of each prompt."""
    return b"".join((number * PROMPT_BLOCKS + block).to_bytes(8, "little") * (BLOCK_BYTES // 8) for block in range(8))

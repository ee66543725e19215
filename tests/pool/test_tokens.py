"""Every kind of token sequence becomes the same bytes; what is not one is refused."""

from array import array
from typing import Any

import numpy as np
import pytest

from memserve.core.errors import InvalidTokens
from memserve.pool.tokens import as_token_bytes

RAW = np.array([1, 0, 2**31 - 1], dtype="<i4").tobytes()


def _name(tokens: object) -> str:
    return f"{type(tokens).__name__} {getattr(tokens, 'dtype', '')}"


@pytest.mark.parametrize(
    "tokens",
    [
        [1, 0, 2**31 - 1],
        (1, 0, 2**31 - 1),
        array("i", [1, 0, 2**31 - 1]),
        array("q", [1, 0, 2**31 - 1]),
        np.array([1, 0, 2**31 - 1], dtype=np.int32),
        np.array([1, 0, 2**31 - 1], dtype=np.int64),
        np.array([1, 0, 2**31 - 1], dtype=np.uint32),
        np.array([1, 0, 2**31 - 1], dtype=">i4"),
        np.array([1, 9, 0, 9, 2**31 - 1, 9], dtype=np.int32)[::2],
        RAW,
        bytearray(RAW),
        memoryview(RAW),
        memoryview(array("i", [1, 0, 2**31 - 1])),
    ],
    ids=_name,
)
def test_every_kind_of_tokens_gives_the_same_bytes(tokens: Any) -> None:
    assert bytes(as_token_bytes(tokens)) == RAW


@pytest.mark.parametrize("tokens", [[], (), b"", np.array([], dtype=np.int32), array("i"), memoryview(b"")], ids=_name)
def test_no_tokens_are_no_bytes(tokens: Any) -> None:
    assert bytes(as_token_bytes(tokens)) == b""


def test_bytes_and_arrays_are_not_copied() -> None:
    held = np.arange(8, dtype=np.int32)
    view = as_token_bytes(held)
    held[0] = 77
    assert view[0] == 77
    assert as_token_bytes(RAW) is RAW


@pytest.mark.parametrize(
    "tokens",
    [
        [1.0, 2.0],
        [1, -1],
        [2**31],
        [2**70],
        ["1"],
        "text",
        [[1, 2], [3, 4]],
        np.zeros((2, 2), dtype=np.int32),
        np.zeros(4, dtype=np.float32),
        np.array([-1], dtype=np.int32),
        np.array([-1], dtype=np.int64),
        np.array([2**31], dtype=np.int64),
        np.array([2**31], dtype=np.uint32),
        np.array([True]),
        array("d", [1.0]),
        array("i", [-5]),
        b"\x00\x00\x00",
        b"\xff\xff\xff\xff",
        memoryview(b"12345"),
        memoryview(RAW)[::2],
        memoryview(array("f", [1.0])),
        memoryview(np.zeros((2, 2), dtype=np.int32)),
        memoryview(np.zeros((2, 2), dtype=np.int8)),
        np.array(5, dtype=np.int32),
        None,
        5,
        {1: 2},
        {1, 2},
    ],
    ids=_name,
)
def test_what_is_not_a_flat_sequence_of_token_ids_is_refused(tokens: Any) -> None:
    with pytest.raises(InvalidTokens):
        as_token_bytes(tokens)

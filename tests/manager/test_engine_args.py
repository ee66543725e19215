"""Options are recognised however they are written."""

import pytest

from memserve.core.errors import ConfigError
from memserve.manager.engine_args import given, number_of, value_of


@pytest.mark.parametrize(
    "args", [("--block-size", "64"), ("--block-size=64",), ("--block_size", "64"), ("--block_size=64",)]
)
def test_dashes_underscores_and_equals_signs_are_the_same(args: tuple[str, ...]) -> None:
    assert given(args, "--block-size")
    assert value_of(args, "--block-size") == "64"


def test_the_last_value_wins() -> None:
    assert number_of(("-tp", "2", "--tensor-parallel-size=4"), "--tensor-parallel-size", "-tp") == 4


def test_a_value_is_not_taken_for_an_option() -> None:
    assert not given(("--chat-template", "dtype"), "--dtype")


def test_an_option_that_is_absent_has_no_value() -> None:
    assert value_of(("--x", "1"), "--dtype") is None


@pytest.mark.parametrize(("text", "number"), [("512", 512), ("8k", 8000), ("8K", 8192)])
def test_numbers_may_be_short(text: str, number: int) -> None:
    assert number_of(("--max-model-len", text), "--max-model-len") == number


@pytest.mark.parametrize("args", [("-tp", "two"), ("-tp", "0"), ("-tp",), ("-tp", "-1")])
def test_a_number_that_is_none_is_refused_by_name(args: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="-tp"):
        number_of(args, "-tp")

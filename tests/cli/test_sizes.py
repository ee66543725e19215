"""How amounts of memory read."""

import pytest

from memserve.cli.sizes import size_text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1 << 10, "1 KiB"),
        (8 << 20, "8 MiB"),
        (100 << 20, "100 MiB"),
        (1536 << 20, "1.5 GiB"),
        ((1 << 30) - 1, "1024 MiB"),
        (12_884_901_888, "12 GiB"),
        (1 << 50, "1024 TiB"),
    ],
)
def test_a_size_has_the_largest_unit_that_fits(num_bytes: int, text: str) -> None:
    assert size_text(num_bytes) == text

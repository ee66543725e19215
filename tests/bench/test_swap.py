"""`memserve bench swap` on the CPU: every way is measured, and a device that is not there is refused."""

import pytest

from memserve.bench.swap import SHAPES, SwapPlan, run_swap
from memserve.core.errors import ConfigError


def test_every_way_is_measured_in_both_directions_for_every_shape() -> None:
    said: list[str] = []
    report = run_swap(plan=SwapPlan(device="cpu", num_blocks=2, num_rounds=1), say=said.append)
    ways = {(row.system, row.operation, row.size_bytes) for row in report.results}
    sizes = [shape.block_bytes for shape in SHAPES]
    directions = ("swap_out", "swap_in")
    assert ways == {(s, d, n) for s in ("limit", "memserve", "discrete") for d in directions for n in sizes}
    assert len(report.results) == 8 * len(SHAPES)
    assert all(row.gb_per_s > 0 and row.blocks == 2 for row in report.results)
    assert len(said) == len(SHAPES)


def test_the_papers_block_has_the_papers_size() -> None:
    assert SHAPES[0].block_bytes == 25 * 2**18


@pytest.mark.parametrize("device", ["cuda:99", "tpu", ""])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(ConfigError, match="--device cpu runs anywhere"):
        run_swap(plan=SwapPlan(device=device), say=lambda _line: None)

"""The crossover is read off the measurements, and a run on the machine at hand gives all of them."""

from pathlib import Path

import pytest

from memserve.core.enums import Tier
from memserve.engines.transformers.bench import Measurement, crossover, measure

WAYS = [(way, tier) for tier in ("hbm", "dram", "disk") for way in ("first-token-restored", "restore")]


def timed(operation: str, tokens: int, microseconds: float) -> Measurement:
    return Measurement(
        system="memserve",
        version="0",
        operation=operation,
        path="dram",
        input="tiny",
        tokens=tokens,
        blocks=1,
        size_bytes=1,
        count=1,
        p50_us=microseconds,
        min_us=microseconds,
        max_us=microseconds,
        gb_per_s=None,
    )


def both(restored: dict[int, float], recomputed: dict[int, float]) -> list[Measurement]:
    return [timed("first-token-restored", tokens, time) for tokens, time in restored.items()] + [
        timed("first-token-recomputed", tokens, time) for tokens, time in recomputed.items()
    ]


def test_the_crossover_is_where_restoring_starts_to_win_for_good() -> None:
    assert crossover(both({32: 1, 64: 5, 128: 6, 256: 7}, {32: 2, 64: 4, 128: 8, 256: 16}), Tier.DRAM) == 128


def test_there_is_no_crossover_where_the_longest_prompt_is_computed_faster() -> None:
    assert crossover(both({32: 1, 64: 5}, {32: 2, 64: 4}), Tier.DRAM) is None
    assert crossover(both({32: 1}, {32: 2}), Tier.DISK) is None


@pytest.mark.engine
def test_a_run_measures_every_operation_on_every_tier_at_every_length(tmp_path: Path) -> None:
    report = measure(shape="smollm2", device="cpu", max_tokens=64, tiers=list(Tier), folder=tmp_path)
    assert report.same_first_token
    assert [(m.operation, m.path, m.tokens, m.blocks) for m in report.results] == [
        ("save", "hbm", 64, 4),
        *(
            (operation, tier, tokens, blocks)
            for tokens, blocks in ((32, 1), (64, 3))
            for operation, tier in (*WAYS, ("first-token-recomputed", "compute"))
            for blocks in [blocks if tier != "compute" else 0]
        ),
    ]

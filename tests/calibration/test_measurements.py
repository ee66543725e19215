"""From samples to a profile: medians, the fit, and its error where it never looked."""

from random import Random

import pytest

from memserve.calibration.measurements import Calibration, Measurements, Points, calibrate
from memserve.core.errors import ConfigError
from memserve.scheduler.cost_model import (
    DecodeSample,
    DecodeTerms,
    PathTerms,
    PrefillSample,
    PrefillTerms,
    ProfileIdentity,
    TransferSample,
)

PREFILL = PrefillTerms(fixed_s=0.05, per_token_s=2e-3, per_pair_s=1e-6, per_cached_token_s=1e-5)
DECODE = DecodeTerms(fixed_s=0.06, per_sequence_s=4e-3, per_context_token_s=1e-6)
PATHS = {
    "shm": PathTerms(latency_s=1e-3, bytes_per_s=4e9),
    "tcp": PathTerms(latency_s=2e-3, bytes_per_s=1e9),
    "dram": PathTerms(latency_s=1e-4, bytes_per_s=8e9),
}
STEPS = ((1, 100, False), (2, 100, False), (1, 900, False), (4, 900, False), (3, 500, True))
IDENTITY = ProfileIdentity(model="m", engine="e", machine="x")


def measured(*, outlier: float = 1.0, skew: float = 1.0) -> Measurements:
    """Three rounds of what these terms cost; `outlier` spoils one round of three, `skew` all that judges."""
    found = Measurements(prefill=Points(), decode=Points(), paths={})
    for round_number in range(3):
        spoilt = outlier if round_number == 1 else 1.0
        for tokens in (65, 129, 257, 513, 1025, 385, 897):
            for cached in (0, 64):
                judges = tokens in (385, 897)
                seconds = PREFILL.seconds(tokens, cached / tokens) * spoilt * (skew if judges else 1)
                sample = PrefillSample(prompt_tokens=tokens, cached_ratio=cached / tokens, seconds=seconds)
                found.prefill.add((tokens, cached), sample, judges=judges)
        for batch, context, judges in (
            (1, 100, False),
            (2, 100, False),
            (1, 900, False),
            (4, 900, False),
            (3, 500, True),
        ):
            seconds = DECODE.seconds(batch, batch * context) * spoilt
            step = DecodeSample(batch=batch, context_tokens=batch * context, seconds=seconds)
            found.decode.add((batch, context), step, judges=judges)
        for name, terms in PATHS.items():
            for size, judges in ((1 << 20, False), (1 << 24, False), (1 << 26, False), (1 << 25, True)):
                moved = TransferSample(num_bytes=size, seconds=terms.seconds(size) * spoilt)
                found.paths.setdefault(name, Points()).add(size, moved, judges=judges)
    return found


def fitted(measurements: Measurements) -> Calibration:
    return calibrate(
        measurements, identity=IDENTITY, source="a test", kv_bytes_per_token=1000, kv_capacity_tokens=10_000
    )


def test_the_terms_behind_the_samples_are_found_and_a_bad_round_changes_nothing() -> None:
    found = fitted(measured(outlier=5.0))
    assert found.profile.prefill.per_token_s == pytest.approx(PREFILL.per_token_s, rel=1e-3)
    assert found.profile.decode.fixed_s == pytest.approx(DECODE.fixed_s, rel=1e-3)
    assert found.profile.paths["tcp"].bytes_per_s == pytest.approx(1e9, rel=1e-3)
    for fit in (found.prefill, found.decode, *found.paths):
        assert fit.error is not None
        assert fit.error.p90 < 0.01


def test_the_error_is_that_of_the_points_that_were_not_used_for_the_fit() -> None:
    error = fitted(measured(skew=1.25)).prefill.error
    assert error is not None
    assert error.median == pytest.approx(0.2, rel=0.01)


def test_another_instance_is_reached_over_the_fastest_path_that_was_measured() -> None:
    paths = fitted(measured()).profile.paths
    assert paths["peer"] == paths["shm"]


def test_loads_lost_in_noise_are_bounded_by_the_path_between_instances() -> None:
    noisy = measured()
    noisy.paths["dram"] = Points()
    draw = Random(0)
    for size in (1 << 20, 1 << 24, 1 << 26):
        seconds = -abs(draw.gauss(0, 1e-3))
        noisy.paths["dram"].add(size, TransferSample(num_bytes=size, seconds=seconds), judges=False)
    paths = fitted(noisy).profile.paths
    assert paths["dram"] == paths["shm"]


def test_without_any_path_between_instances_the_reader_is_told_what_to_do() -> None:
    alone = measured()
    del alone.paths["shm"], alone.paths["tcp"]
    with pytest.raises(ConfigError, match=r"pool\.paths"):
        fitted(alone)


def test_a_path_whose_growth_with_bytes_is_lost_in_noise_is_known_by_its_largest_transfer() -> None:
    noisy = measured()
    noisy.paths["tcp"] = Points()
    for size, seconds in ((1 << 20, 0.4), (1 << 24, 0.3), (1 << 26, 0.2)):
        noisy.paths["tcp"].add(size, TransferSample(num_bytes=size, seconds=seconds), judges=False)
    assert fitted(noisy).profile.paths["tcp"] == PathTerms(latency_s=0.0, bytes_per_s=(1 << 26) / 0.2)

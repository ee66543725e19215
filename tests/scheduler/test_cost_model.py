"""The cost model: fitted, saved, refused, corrected."""

from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memserve.core.errors import ConfigError
from memserve.scheduler.cost_model import (
    CostModel,
    CostProfile,
    DecodeSample,
    DecodeTerms,
    PathTerms,
    PrefillSample,
    PrefillTerms,
    ProfileIdentity,
    TransferSample,
    decode_profile,
    encode_profile,
    fit_decode,
    fit_error,
    fit_prefill,
    fit_transfer,
)

PREFILL = PrefillTerms(fixed_s=0.01, per_token_s=2e-3, per_pair_s=5e-7, per_cached_token_s=4e-6)
DECODE = DecodeTerms(fixed_s=0.06, per_sequence_s=6e-4, per_context_token_s=5e-6)
PROFILE = CostProfile(
    identity=ProfileIdentity(model="m", engine="vllm-0.32.0", machine="two cores"),
    source="made up",
    prefill=PREFILL,
    decode=DECODE,
    paths={"dram": PathTerms(latency_s=0.001, bytes_per_s=1e10)},
    kv_bytes_per_token=46080,
    kv_capacity_tokens=20000,
)


def prefill_samples(random: Random, *, noise: float, count: int = 40) -> list[PrefillSample]:
    shapes = [(random.randint(16, 4000), random.choice([0.0, 0.25, 0.5, 0.75, 0.9])) for _ in range(count)]
    return [
        PrefillSample(
            prompt_tokens=x, cached_ratio=y, seconds=PREFILL.seconds(x, y) * random.uniform(1 - noise, 1 + noise)
        )
        for x, y in shapes
    ]


def test_the_attention_of_a_prefill_counts_every_causal_pair() -> None:
    pairs = PrefillTerms(fixed_s=0, per_token_s=0, per_pair_s=1.0)
    cached, prompt = 300, 1000
    exact = sum(range(cached, prompt))
    assert pairs.seconds(prompt, cached / prompt) == pytest.approx(exact, rel=0.001)


def test_exact_samples_give_their_terms_back() -> None:
    fitted = fit_prefill(prefill_samples(Random(1), noise=0.0))
    assert msgspec.structs.astuple(fitted) == pytest.approx(msgspec.structs.astuple(PREFILL), rel=1e-4)


def test_noisy_samples_predict_other_lengths_and_ratios() -> None:
    fitted = fit_prefill(prefill_samples(Random(2), noise=0.15))
    unseen = prefill_samples(Random(3), noise=0.0)
    error = fit_error(
        [fitted.seconds(s.prompt_tokens, s.cached_ratio) for s in unseen], [sample.seconds for sample in unseen]
    )
    assert error.median <= 0.10
    assert error.p90 <= 0.25


def test_no_term_of_a_fit_is_negative() -> None:
    samples = [PrefillSample(prompt_tokens=x, cached_ratio=0.0, seconds=x**0.5) for x in (16, 100, 900, 2500, 4000)]
    assert min(msgspec.structs.astuple(fit_prefill(samples))) >= 0


def test_decode_steps_and_transfers_are_fitted_too() -> None:
    steps = [
        DecodeSample(batch=b, context_tokens=c, seconds=DECODE.seconds(b, c)) for b in (1, 4, 16) for c in (100, 9000)
    ]
    assert msgspec.structs.astuple(fit_decode(steps)) == pytest.approx(msgspec.structs.astuple(DECODE), rel=1e-4)
    path = PROFILE.paths["dram"]
    moves = [TransferSample(num_bytes=n, seconds=path.seconds(n)) for n in (1 << 16, 1 << 20, 1 << 26)]
    assert msgspec.structs.astuple(fit_transfer(moves)) == pytest.approx(msgspec.structs.astuple(path), rel=1e-4)


@pytest.mark.parametrize(
    "samples",
    [[], prefill_samples(Random(1), noise=0, count=3), [PrefillSample(prompt_tokens=9, cached_ratio=0, seconds=0)] * 5],
)
def test_too_few_or_impossible_samples_are_refused(samples: list[PrefillSample]) -> None:
    with pytest.raises(ConfigError, match="samples"):
        fit_prefill(samples)


def test_transfers_that_take_no_longer_with_more_bytes_are_refused() -> None:
    with pytest.raises(ConfigError, match="larger"):
        fit_transfer([TransferSample(num_bytes=n, seconds=1 / n) for n in (10, 100, 1000)])


def test_a_profile_survives_its_file() -> None:
    assert decode_profile(encode_profile(PROFILE), where="p.json", expected=PROFILE.identity) == PROFILE


@pytest.mark.parametrize("field", ["model", "engine", "machine"])
def test_a_profile_of_something_else_is_refused_by_the_field_that_differs(field: str) -> None:
    expected = msgspec.structs.replace(PROFILE.identity, **{field: "another"})
    with pytest.raises(ConfigError, match=f'p.json is a cost profile of something else: {field} ".*" instead of "ano'):
        decode_profile(encode_profile(PROFILE), where="p.json", expected=expected)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        encode_profile(PROFILE)[:-40],
        encode_profile(PROFILE).replace(b'"source"', b'"sauce"'),
        encode_profile(PROFILE).replace(b"10000000000.0", b"0.0"),
        encode_profile(PROFILE).replace(b"0.06", b"-0.06"),
        encode_profile(PROFILE).replace(b"20000", b"0"),
    ],
)
def test_a_file_that_is_no_profile_is_refused(data: bytes) -> None:
    with pytest.raises(ConfigError, match=r"p\.json is not a"):
        decode_profile(data, where="p.json")


def test_nothing_moved_takes_no_time_and_an_unknown_path_is_refused() -> None:
    cost = CostModel(PROFILE)
    assert cost.transfer_s(0, "dram") == 0
    assert cost.transfer_s(10**10, "dram") == pytest.approx(1.001)
    with pytest.raises(ConfigError, match='no path "moon", only dram'):
        cost.transfer_s(1, "moon")


def test_predictions_follow_a_machine_that_got_slower() -> None:
    cost = CostModel(PROFILE)
    for _ in range(200):
        cost.observe("prefill", predicted_s=cost.prefill_s(1000, 0.5), actual_s=2 * PREFILL.seconds(1000, 0.5))
    assert cost.prefill_s(1000, 0.5) == pytest.approx(2 * PREFILL.seconds(1000, 0.5), rel=0.01)
    assert cost.decode_step_s(1, 10) == DECODE.seconds(1, 10)


@given(st.lists(st.tuples(st.floats(0, 1e12), st.floats(-1, 1e12)), max_size=200))
def test_no_stream_of_outcomes_drives_the_correction_out_of_bounds(outcomes: list[tuple[float, float]]) -> None:
    cost = CostModel(PROFILE)
    for predicted, actual in outcomes:
        cost.observe("transfer:dram", predicted_s=predicted, actual_s=actual)
    assert 0.249 < cost.correction("transfer:dram") < 4.001

"""What serving costs in seconds: prefill, decode steps and transfers, predicted from a fitted profile.

Owns the terms, their fit from samples and the correction from what really happened. Does no I/O: profiles
come and go as bytes. Lifecycle: samples -> `fit_*` -> CostProfile -> `encode_profile` -> a file ->
`decode_profile`, which refuses one that was made for something else -> CostModel, which drifts with the machine.

The terms follow arXiv 2406.17565: operators bound by computation grow with the tokens computed, attention
with x^2 and x^2*y (x prompt tokens, y cached ratio); here as the exact number of causal pairs,
(x^2 - (x*y)^2) / 2, so that no coefficient has to be negative.
"""

from collections.abc import Mapping, Sequence
from math import exp, log

import msgspec
import numpy as np
import numpy.typing as npt

from memserve.core.errors import ConfigError

_LEARNING_RATE = 0.05
_MAX_CORRECTION = 4.0
_MAX_RATIO = 1e6


class ProfileIdentity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a profile was made for. All three must agree before it may be used elsewhere."""

    model: str
    engine: str
    machine: str


class PrefillTerms(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Seconds of a prefill: one launch, then per token computed, per causal pair and per cached token read."""

    fixed_s: float
    per_token_s: float
    per_pair_s: float
    per_cached_token_s: float = 0.0

    def seconds(self, prompt_tokens: float, cached_ratio: float) -> float:
        """exec(x, y) for x prompt tokens of which the ratio y (0 to 1) is held."""
        cached = prompt_tokens * cached_ratio
        computed = prompt_tokens - cached
        pairs = computed * (prompt_tokens + cached) / 2
        return self.fixed_s + self.per_token_s * computed + self.per_pair_s * pairs + self.per_cached_token_s * cached


class DecodeTerms(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Seconds of one decode step: one launch with all weights read, then per sequence and per token of context."""

    fixed_s: float
    per_sequence_s: float
    per_context_token_s: float

    def seconds(self, batch: int, context_tokens: float) -> float:
        """One step of `batch` sequences with `context_tokens` of context in all."""
        return self.fixed_s + self.per_sequence_s * batch + self.per_context_token_s * context_tokens


class PathTerms(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    latency_s: float
    bytes_per_s: float

    def seconds(self, num_bytes: float) -> float:
        """0 for no bytes: then nothing is asked either."""
        return self.latency_s + num_bytes / self.bytes_per_s if num_bytes else 0.0


class CostProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model on one engine on one machine."""

    identity: ProfileIdentity
    source: str
    """Where the numbers come from: a measurement with its command, or the figures of a roofline."""
    prefill: PrefillTerms
    decode: DecodeTerms
    paths: dict[str, PathTerms]
    """By name, e.g. "dram" from host memory to the device, "peer" between instances."""
    kv_bytes_per_token: int
    kv_capacity_tokens: int
    """Tokens whose KV fits beside the weights: bounds what runs at once."""


class FitError(msgspec.Struct, frozen=True, kw_only=True):
    """How far a fit is off, relative to what was measured."""

    median: float
    p90: float


class PrefillSample(msgspec.Struct, frozen=True, kw_only=True):
    prompt_tokens: int
    cached_ratio: float
    seconds: float


class DecodeSample(msgspec.Struct, frozen=True, kw_only=True):
    batch: int
    context_tokens: int
    """Of all sequences together."""
    seconds: float


class TransferSample(msgspec.Struct, frozen=True, kw_only=True):
    num_bytes: int
    seconds: float


class CostModel:
    """Predictions of one profile, corrected by one factor per kind that follows what really happened."""

    def __init__(self, profile: CostProfile) -> None:
        self.profile = profile
        self._corrections = {"prefill": 0.0, "decode": 0.0} | {f"transfer:{path}": 0.0 for path in profile.paths}

    def __repr__(self) -> str:
        factors = ", ".join(f"{kind} x{exp(value):.2f}" for kind, value in self._corrections.items())
        return f"CostModel({self.profile.identity.model} on {self.profile.identity.machine}; {factors})"

    def prefill_s(self, prompt_tokens: float, cached_ratio: float) -> float:
        return self.profile.prefill.seconds(prompt_tokens, cached_ratio) * self.correction("prefill")

    def decode_step_s(self, batch: int, context_tokens: float) -> float:
        return self.profile.decode.seconds(batch, context_tokens) * self.correction("decode")

    def transfer_s(self, num_bytes: float, path: str) -> float:
        """latency + bytes / bandwidth. Raises ConfigError for a path that the profile does not know."""
        terms = self.profile.paths.get(path)
        if terms is None:
            known = ", ".join(self.profile.paths) or "none"
            raise ConfigError(f'the cost profile has no path "{path}", only {known}: calibrate again')
        return terms.seconds(num_bytes) * self.correction(f"transfer:{path}")

    def correction(self, kind: str) -> float:
        """What predictions of "prefill", "decode" or "transfer:PATH" are multiplied by; 1.0 at the start."""
        return exp(self._corrections[kind])

    def observe(self, kind: str, *, predicted_s: float, actual_s: float) -> None:
        """A prediction came true otherwise: move the factor a little, in the logarithm, within 1/4 to 4.

        What is not positive tells nothing and is passed over.
        """
        if predicted_s <= 0 or actual_s <= 0:
            return
        bound = log(_MAX_CORRECTION)
        ratio = min(max(actual_s / predicted_s, 1 / _MAX_RATIO), _MAX_RATIO)
        moved = self._corrections[kind] + _LEARNING_RATE * log(ratio)
        self._corrections[kind] = min(max(moved, -bound), bound)


def fit_prefill(samples: Sequence[PrefillSample]) -> PrefillTerms:
    """Least squares of the relative error, no term below 0. Raises ConfigError on fewer than 4 samples."""
    rows = [_prefill_row(sample) for sample in samples]
    fixed, token, pair, cached = _fit(rows, [sample.seconds for sample in samples], "prefill")
    return PrefillTerms(fixed_s=fixed, per_token_s=token, per_pair_s=pair, per_cached_token_s=cached)


def fit_decode(samples: Sequence[DecodeSample]) -> DecodeTerms:
    """As `fit_prefill`, from at least 3 samples."""
    rows = [(1.0, float(sample.batch), float(sample.context_tokens)) for sample in samples]
    fixed, sequence, context = _fit(rows, [sample.seconds for sample in samples], "decode")
    return DecodeTerms(fixed_s=fixed, per_sequence_s=sequence, per_context_token_s=context)


def fit_transfer(samples: Sequence[TransferSample]) -> PathTerms:
    """As `fit_prefill`, from at least 2 samples. Raises ConfigError when time does not grow with bytes."""
    rows = [(1.0, float(sample.num_bytes)) for sample in samples]
    latency, per_byte = _fit(rows, [sample.seconds for sample in samples], "transfer")
    if per_byte <= 0:
        raise ConfigError(f"{len(samples)} transfer samples take no longer with more bytes: measure larger ones")
    return PathTerms(latency_s=latency, bytes_per_s=1 / per_byte)


def fit_error(predicted: Sequence[float], actual: Sequence[float]) -> FitError:
    """Absolute error relative to `actual`, which must be positive. Raises ConfigError without samples."""
    if not actual:
        raise ConfigError("no samples to judge the fit by: measure some that the fit did not see")
    off = np.abs(np.asarray(predicted) / np.asarray(actual) - 1)
    return FitError(median=float(np.median(off)), p90=float(np.quantile(off, 0.9)))


def encode_profile(profile: CostProfile) -> bytes:
    """JSON, indented, with a newline at the end."""
    return msgspec.json.format(msgspec.json.encode(profile), indent=2) + b"\n"


def decode_profile(data: bytes, *, where: str, expected: ProfileIdentity | None = None) -> CostProfile:
    """A profile from JSON; `where` names its file in errors.

    Raises ConfigError when it is none, when a number is impossible, or when it was made for something other
    than `expected`: the message names each field that differs.
    """
    try:
        profile = msgspec.json.decode(data, type=CostProfile)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{where} is not a cost profile: {error}; calibrate again") from error
    _check_numbers(profile, where)
    if expected is not None:
        _check_identity(profile.identity, expected, where)
    return profile


def _prefill_row(sample: PrefillSample) -> tuple[float, float, float, float]:
    cached = sample.prompt_tokens * sample.cached_ratio
    computed = sample.prompt_tokens - cached
    return 1.0, computed, computed * (sample.prompt_tokens + cached) / 2, cached


def _fit(rows: Sequence[Sequence[float]], seconds: Sequence[float], what: str) -> list[float]:
    """Coefficients of columns; one that would be negative is left out and the rest fitted again."""
    width = len(rows[0]) if rows else 1
    if len(rows) < max(width, 2):
        raise ConfigError(f"{len(rows)} {what} samples: a fit needs at least {max(width, 2)}")
    measured = np.asarray(seconds, dtype=np.float64)
    if not np.all(np.isfinite(measured)) or measured.min() <= 0:
        raise ConfigError(f"{what} samples must be positive seconds: measure again")
    relative: npt.NDArray[np.float64] = np.asarray(rows, dtype=np.float64) / measured[:, None]
    scale = np.abs(relative).max(axis=0)
    scale[scale == 0] = 1.0
    columns = list(range(width))
    while True:
        found = np.linalg.lstsq((relative / scale)[:, columns], np.ones(len(measured)), rcond=None)[0]
        if found.min() >= 0 or len(columns) == 1:
            break
        del columns[int(found.argmin())]
    terms = [0.0] * width
    for column, value in zip(columns, found / scale[columns], strict=True):
        terms[column] = max(float(value), 0.0)
    return terms


def _check_numbers(profile: CostProfile, where: str) -> None:
    terms: Mapping[str, object] = msgspec.to_builtins(profile)
    numbers: dict[str, float] = {
        "kv_bytes_per_token": profile.kv_bytes_per_token,
        "kv_capacity_tokens": profile.kv_capacity_tokens,
    }
    numbers |= {f"paths.{name}.bytes_per_s": path.bytes_per_s for name, path in profile.paths.items()}
    bad = [f"{name} is {value}" for name, value in numbers.items() if value <= 0]
    for part in ("prefill", "decode"):
        fields = terms[part]
        if isinstance(fields, dict):
            bad += [f"{part}.{name} is {value}" for name, value in fields.items() if value < 0]
    bad += [f"paths.{name}.latency_s is {path.latency_s}" for name, path in profile.paths.items() if path.latency_s < 0]
    if bad:
        raise ConfigError(f"{where} is not a usable cost profile: {'; '.join(bad)}; calibrate again")


def _check_identity(found: ProfileIdentity, expected: ProfileIdentity, where: str) -> None:
    differing = [
        f'{name} "{getattr(found, name)}" instead of "{getattr(expected, name)}"'
        for name in expected.__struct_fields__
        if getattr(found, name) != getattr(expected, name)
    ]
    if differing:
        raise ConfigError(f"{where} is a cost profile of something else: {', '.join(differing)}; calibrate again")

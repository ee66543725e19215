"""What was measured, and the profile that follows from it, with its error on what the fit never saw.

Owns the medians over rounds, the fit of every kind and the judgement. Pure.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import msgspec

from memserve.core.errors import ConfigError
from memserve.scheduler.cost_model import (
    CostProfile,
    DecodeSample,
    DecodeTerms,
    FitError,
    PathTerms,
    PrefillSample,
    PrefillTerms,
    ProfileIdentity,
    TransferSample,
    fit_decode,
    fit_error,
    fit_prefill,
    fit_transfer,
)
from memserve.serving.profiles import HOST_PATH, PEER_PATH


class _Timed(Protocol):
    @property
    def seconds(self) -> float: ...


S = TypeVar("S", bound=_Timed)
K = TypeVar("K")


class Judged(msgspec.Struct, Generic[S], frozen=True, kw_only=True):
    """One point of the measurement: the median over its rounds, beside what the fit predicts there."""

    sample: S
    rounds: int
    judges: bool
    predicted_s: float


class Fit(msgspec.Struct, Generic[S], frozen=True, kw_only=True):
    """All points of one kind."""

    kind: str
    """prefill, decode, or the name of a path."""
    points: tuple[Judged[S], ...]
    error: FitError | None
    """On the points that the fit never saw; None when there are none."""


class Points(Generic[K, S]):
    """Samples of one kind, collected round after round under a key that says which point they are."""

    def __init__(self) -> None:
        self._samples: defaultdict[tuple[K, bool], list[S]] = defaultdict(list)

    def add(self, key: K, sample: S, *, judges: bool) -> None:
        self._samples[key, judges].append(sample)

    def __len__(self) -> int:
        return sum(len(samples) for samples in self._samples.values())

    def medians(self, *, judges: bool) -> list[tuple[S, int]]:
        """The sample in the middle of each point's, and how many there were."""
        return [
            (sorted(samples, key=lambda s: s.seconds)[len(samples) // 2], len(samples))
            for (_, judging), samples in self._samples.items()
            if judging == judges
        ]


class Measurements(msgspec.Struct, frozen=True, kw_only=True):
    prefill: Points[tuple[int, int], PrefillSample]
    """By prompt and cached tokens."""
    decode: Points[tuple[int, int], DecodeSample]
    """By batch and context tokens."""
    paths: dict[str, Points[int, TransferSample]]
    """By name of the path, then by bytes."""


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """A finished calibration."""

    profile: CostProfile
    prefill: Fit[PrefillSample]
    decode: Fit[DecodeSample]
    paths: tuple[Fit[TransferSample], ...]


def calibrate(
    measured: Measurements, *, identity: ProfileIdentity, source: str, kv_bytes_per_token: int, kv_capacity_tokens: int
) -> Calibration:
    """Fit and judge. Raises ConfigError when a kind has too few samples or a path was never measured."""
    prefill_terms = fit_prefill(_fitting(measured.prefill))
    decode_terms = fit_decode(_fitting(measured.decode))
    fits = {name: _path_terms(_fitting(points)) for name, points in measured.paths.items() if name != HOST_PATH}
    if not fits:
        raise ConfigError("no path between instances was measured: name one in pool.paths and calibrate again")
    fastest = max(fits.values(), key=lambda terms: terms.bytes_per_s)
    fits[HOST_PATH] = _host_terms(measured.paths.get(HOST_PATH, Points()), fastest)
    profile = CostProfile(
        identity=identity,
        source=source,
        prefill=prefill_terms,
        decode=decode_terms,
        paths=fits | {PEER_PATH: fastest},
        kv_bytes_per_token=kv_bytes_per_token,
        kv_capacity_tokens=kv_capacity_tokens,
    )
    return Calibration(
        profile=profile,
        prefill=_judge("prefill", measured.prefill, lambda s: prefill_s(prefill_terms, s)),
        decode=_judge("decode", measured.decode, lambda s: decode_s(decode_terms, s)),
        paths=tuple(_judge(name, points, _path_s(fits[name])) for name, points in measured.paths.items()),
    )


def prefill_s(terms: PrefillTerms, sample: PrefillSample) -> float:
    return terms.seconds(sample.prompt_tokens, sample.cached_ratio)


def decode_s(terms: DecodeTerms, sample: DecodeSample) -> float:
    return terms.seconds(sample.batch, sample.context_tokens)


def _path_terms(samples: list[TransferSample]) -> PathTerms:
    """Where noise hides how time grows with bytes, the largest transfer says all: no latency, that much a byte."""
    try:
        return fit_transfer(samples)
    except ConfigError:
        largest = max(samples, key=lambda sample: sample.num_bytes, default=None)
        if largest is None or largest.seconds <= 0:
            raise
        return PathTerms(latency_s=0.0, bytes_per_s=largest.num_bytes / largest.seconds)


def _host_terms(points: Points[int, TransferSample], bound: PathTerms) -> PathTerms:
    """Loads are differences of two prefills: where noise is larger, the path between instances bounds them.

    That path copies the same bytes and asks a peer besides.
    """
    samples = [sample for sample in _fitting(points) if sample.seconds > 0]
    try:
        found = fit_transfer(samples)
    except ConfigError:
        return bound
    return found


def _path_s(terms: PathTerms) -> Callable[[TransferSample], float]:
    return lambda sample: terms.seconds(sample.num_bytes)


def _fitting(points: Points[K, S]) -> list[S]:
    return [sample for sample, _ in points.medians(judges=False)]


def _judge(kind: str, points: Points[K, S], predict: Callable[[S], float]) -> Fit[S]:
    judged = [
        Judged(sample=sample, rounds=rounds, judges=judges, predicted_s=predict(sample))
        for judges in (False, True)
        for sample, rounds in points.medians(judges=judges)
    ]
    unseen = [point for point in judged if point.judges and point.sample.seconds > 0]
    error = fit_error([p.predicted_s for p in unseen], [p.sample.seconds for p in unseen]) if unseen else None
    return Fit(kind=kind, points=tuple(judged), error=error)

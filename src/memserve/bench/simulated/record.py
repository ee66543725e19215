"""What `memserve bench simulated` leaves behind: one JSON file a study. Owns the names in these files.

Times are seconds, hit ratios are of prompt blocks.
"""

from pathlib import Path

import msgspec

from memserve.core.enums import CachingMode
from memserve.core.errors import ConfigError
from memserve.scheduler.cost_model import ProfileIdentity
from memserve.simulator.report import Origin


class StudyReport(msgspec.Struct, frozen=True, kw_only=True):
    """The head of every study."""

    study: str
    origin: Origin
    profile: ProfileIdentity
    profile_source: str
    seeds: tuple[int, ...]


class Gains(msgspec.Struct, frozen=True, kw_only=True):
    """Relative to PD-Basic; below 0 is better."""

    ttft_avg: float
    ttft_p99: float
    jct_avg: float
    jct_p99: float


class PaperResult(msgspec.Struct, frozen=True, kw_only=True):
    """One system with one workload; times are medians over the seeds."""

    workload: str
    load: float
    """PD-Basic's average TTFT at this rate over that of an idle cluster."""
    system: str
    layout: str
    caching: CachingMode
    policy: str
    rate: float
    """Requests that arrive in a second."""
    requests: int
    prompt_tokens_avg: float
    output_tokens_avg: float
    ttft_avg_s: float
    ttft_p99_s: float
    jct_avg_s: float
    jct_p99_s: float
    hit_ratio: float
    moved_bytes: float
    gains: Gains
    paper: Gains | None
    """What the paper tells of the best of its caching milestones; None for systems without a counterpart."""


class PaperReport(StudyReport, frozen=True, kw_only=True):
    """`memserve bench simulated paper`."""

    scaling: dict[str, str]
    """How each workload's lengths were cut to the context of the model."""
    results: tuple[PaperResult, ...]


def write_study(report: StudyReport, file: Path) -> None:
    """Indented, with a newline at the end. Raises ConfigError when the file cannot be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror}; name another file") from error

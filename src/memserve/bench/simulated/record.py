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
    """PD-Basic's average TTFT at this rate over that of an idle cluster: about what was asked for, or what was reached
    where the order within sessions keeps the cluster from more."""
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


class AgainstResult(msgspec.Struct, frozen=True, kw_only=True):
    """One cell of `memserve bench serve` and the same requests simulated."""

    system: str
    workload: str
    rate: float
    repetition: int
    requests: int
    ttft_p50_s: float
    simulated_ttft_p50_s: float
    ttft_avg_s: float
    simulated_ttft_avg_s: float
    jct_p50_s: float
    simulated_jct_p50_s: float
    jct_avg_s: float
    simulated_jct_avg_s: float

    @property
    def ttft_error(self) -> float:
        """Of the median; below 0: the simulator says less."""
        return self.simulated_ttft_p50_s / self.ttft_p50_s - 1.0

    @property
    def jct_error(self) -> float:
        """As `ttft_error`."""
        return self.simulated_jct_p50_s / self.jct_p50_s - 1.0


class AgainstReport(StudyReport, frozen=True, kw_only=True):
    """`memserve bench simulated against`."""

    runs: tuple[str, ...]
    """File names of the real runs."""
    left_out: tuple[str, ...]
    """Systems of it that the simulator has no counterpart for."""
    results: tuple[AgainstResult, ...]


class CostResult(msgspec.Struct, frozen=True, kw_only=True):
    """The smallest cluster of one kind that keeps the average TTFT."""

    caching: CachingMode
    policy: str
    instances: int
    ttft_avg_s: float
    ttft_p99_s: float
    jct_avg_s: float
    utilisation: float
    hit_ratio: float
    hours: float
    """From the first request to the last answer."""
    tokens: int
    """Of prompts and answers."""
    dollars_per_million_tokens: float


class CostReport(StudyReport, frozen=True, kw_only=True):
    """`memserve bench simulated cost`."""

    trace: str
    requests: int
    ttft_s: float
    """That the average must not pass."""
    price_per_gpu_hour: float
    """Dollars."""
    results: tuple[CostResult, ...]


class MemoryResult(msgspec.Struct, frozen=True, kw_only=True):
    """One cluster of `memserve bench simulated memory`."""

    cluster: str
    trace: str
    requests: int
    instances: int
    pool_blocks: int | None
    """Of each instance; None: endless."""
    memory_blocks: int
    """Of the memory instance; 0: there is none."""
    max_replicas: int
    hit_ratio: float
    ideal_hit_ratio: float
    ttft_avg_s: float
    ttft_p99_s: float
    jct_avg_s: float
    pull_ratio: float
    """Share of the requests for which KV was pulled."""
    moved_bytes: float
    load_max_over_mean: float


class MemoryReport(StudyReport, frozen=True, kw_only=True):
    """`memserve bench simulated memory`."""

    results: tuple[MemoryResult, ...]


def write_study(report: StudyReport, file: Path) -> None:
    """Indented, with a newline at the end. Raises ConfigError when the file cannot be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror}; name another file") from error

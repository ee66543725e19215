"""What `memserve bench serve` leaves behind: a line for each cell, a line for each request, and the whole run.

Owns the names in these files, on which figures and the simulator's validation rely:

    NAME.json             the run: a ServeReport, written at its end
    NAME.jsonl            a ServeResult a line, appended as soon as a cell is done; what is there is not played again
    NAME.requests.jsonl   a RequestLine a line, all those of a cell just before its ServeResult

A cell is one system at one rate in one repetition. Times are seconds, ratios are of prompt tokens.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import msgspec

from memserve.bench.records import Run
from memserve.core.errors import ConfigError

Line = TypeVar("Line")


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One system at one rate in one repetition."""

    system: str
    workload: str
    rate: float
    """Sessions that arrive in a second."""
    repetition: int
    """From 1."""


class ServeResult(Cell, frozen=True, kw_only=True):
    """How one cell went."""

    requests: int
    """That were answered whole; the others count in `failed` and nowhere else."""
    failed: int
    sessions: int
    seed: int
    prompt_tokens: int
    output_tokens: int
    seconds: float
    """From the first arrival to the last answer."""
    ttft_avg_s: float
    ttft_p50_s: float
    ttft_p99_s: float
    tpot_avg_s: float
    """Of a request: from its first to its last token, by the tokens after the first."""
    tpot_p50_s: float
    tpot_p99_s: float
    jct_avg_s: float
    jct_p50_s: float
    jct_p99_s: float
    requests_per_s: float
    tokens_per_s: float
    """Output tokens."""
    hit_ratio: float | None
    """Prompt tokens that nobody computed for this request because they were cached, where the prompt is computed.
    What a prefill instance hands over to a decode instance is no hit. None when the system does not tell."""
    hbm_hit_ratio: float | None
    """Of it, in the engine's own cache."""
    dram_hit_ratio: float | None
    """Of it, from a pool in host memory, what was pulled from another instance's included."""
    disk_hit_ratio: float | None
    moved_bytes: int | None
    """KV between instances. None when the system does not tell."""
    cpu_s: float
    """Of all the system's processes; the client is not among them."""
    reference: str
    """System whose answers `tokens_identical` compares with: the first of the run that finished this cell."""
    num_identical: int
    tokens_identical: bool
    """Every answer is, token by token, the reference's."""
    is_saturated: bool
    """The rate was more than the system sustains: its times grow with the length of the run and mean nothing else."""
    started: str
    """UTC, ISO 8601."""
    commit: str
    """Of the source tree, "" where there is none; a "+" at its end: with changes."""
    machine: str
    run: str
    """Digest of what makes cells comparable: workload, sessions, seed, lengths, model."""


class RequestLine(Cell, frozen=True, kw_only=True):
    """One request of a cell."""

    session: int
    """From 0, in the order of arrival."""
    turn: int
    """From 0."""
    arrival_s: float
    """When it was sent, after the cell's beginning."""
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int | None
    """As `ServeResult.hit_ratio` counts; None when the system does not tell for single requests."""
    ttft_s: float
    jct_s: float
    answer: str
    """Digest of its token ids."""


class ServeReport(Run, frozen=True, kw_only=True):
    """A whole run. `missing` are systems that could not be measured, and why."""

    seed: int
    commit: str
    model: str
    scaling: str
    """How the workload's lengths were fitted to this machine."""
    command: str
    results: tuple[ServeResult, ...]


def read_results(file: Path) -> list[ServeResult]:
    """Lines of a NAME.jsonl; a last line that was cut off is left out. Raises ConfigError on any other form."""
    return list(_read(file, ServeResult))


def read_requests(file: Path) -> list[RequestLine]:
    """Lines of a NAME.requests.jsonl; as `read_results`."""
    return list(_read(file, RequestLine))


def results_file(json: Path) -> Path:
    """NAME.jsonl beside NAME.json."""
    return json.with_suffix(".jsonl")


def requests_file(json: Path) -> Path:
    """NAME.requests.jsonl beside NAME.json."""
    return json.with_suffix(".requests.jsonl")


def _read(file: Path, kind: type[Line]) -> Iterable[Line]:
    try:
        text = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}") from error
    whole = text.split(b"\n")[:-1]
    for number, line in enumerate(whole, 1):
        try:
            yield msgspec.json.decode(line, type=kind)
        except msgspec.DecodeError as error:
            raise ConfigError(f"line {number} of {file} is not a {kind.__name__}: {error}") from error

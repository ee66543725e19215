"""What a benchmark run leaves behind: rows, the systems that were missing, and where and when it ran.

Owns the shape of the JSON file. Times are microseconds a call, rates 10^9 bytes a second.
"""

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np


class Row(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One system at one task. Fields that do not apply are left out of the file."""

    system: str
    version: str
    operation: str
    path: str = ""
    tree: str = ""
    input: str = ""
    blocks: int = 0
    """In one call."""
    size_bytes: int = 0
    """Of one block; of `memory` rows: bytes that each block costs."""
    calls: int = 0
    """Network calls that one operation takes."""
    count: int = 0
    """Calls measured."""
    p50_us: float = 0.0
    p25_us: float = 0.0
    p75_us: float = 0.0
    p99_us: float = 0.0
    gb_per_s: float = 0.0
    """At the median."""
    blocks_per_s: int = 0
    """At the median, of events."""


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """A system that could not be measured, and what would change that."""

    system: str
    reason: str


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    processor: str
    num_cores: int
    kernel: str
    python: str


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run of `memserve bench`, whatever its results look like."""

    bench: str
    started: str
    """UTC, ISO 8601."""
    machine: Machine
    missing: tuple[Missing, ...]
    command: str = ""
    """What was typed to make it."""
    commit: str = ""
    """Of the code that ran; a "+" at its end: with changes; "" where there is no source tree."""

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")


class Report(Run, frozen=True, kw_only=True):
    """A run whose results are operations with their times."""

    results: tuple[Row, ...]


def make_report(bench: str, *, results: Sequence[Row], missing: Sequence[Missing]) -> Report:
    """Stamped with this machine and the present time."""
    return Report(
        bench=bench,
        started=now(),
        machine=this_machine(),
        missing=tuple(missing),
        command=this_command(),
        commit=this_commit(),
        results=tuple(results),
    )


def now() -> str:
    """UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def this_machine() -> Machine:
    return Machine(
        processor=_processor(),
        num_cores=os.cpu_count() or 1,
        kernel=platform.release(),
        python=platform.python_version(),
    )


def this_command() -> str:
    """As it would be typed again."""
    return shlex.join(("memserve", *sys.argv[1:]))


def this_commit() -> str:
    """Of the checkout that this code lies in; "" when it lies in none."""
    try:
        done = subprocess.run(
            ("git", "describe", "--always", "--dirty=+", "--abbrev=10", "--exclude=*"),
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def timed_row(times_ns: Sequence[int], row: Row, *, num_bytes: int = 0) -> Row:
    """`row` with the quantiles of these times, and the rate when each call moved `num_bytes`."""
    p25, p50, p75, p99 = (float(value) / 1e3 for value in np.percentile(times_ns, (25, 50, 75, 99)))
    return msgspec.structs.replace(
        row,
        count=len(times_ns),
        p25_us=round(p25, 3),
        p50_us=round(p50, 3),
        p75_us=round(p75, 3),
        p99_us=round(p99, 3),
        gb_per_s=round(num_bytes / p50 / 1e3, 3) if num_bytes else 0.0,
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()

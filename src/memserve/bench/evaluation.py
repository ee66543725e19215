"""`memserve bench evaluation`: every measurement behind the report, one after the other, then the report itself.

Owns the list of parts and their order; each is a command of its own with a deadline, a result file and a log. A part
whose result is there is not made again, so that an interrupted run goes on where it ended; one that fails is reported
and the rest goes on.

    (part: start -> result file | failed) ... -> report
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from memserve.bench.child import Say
from memserve.bench.study.record import Size
from memserve.bench.study.run import STUDIES
from memserve.core.errors import ConfigError

_STOP_S = 30.0
_LAST_WORDS = 300


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One command of `memserve`, without the name of its result file."""

    name: str
    arguments: tuple[str, ...]
    deadline_s: float

    def file(self, results: Path) -> Path:
        return results / f"{self.name}.json"

    def command(self, results: Path) -> tuple[str, ...]:
        return (*self.arguments, "--json", str(self.file(results)))


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    part: str
    seconds: float
    problem: str = ""
    """Why there is no result; "" when there is one."""


_ALL_SYSTEMS = "vllm,vllm-apc,vllm-nixl,colocated,auto,basic,prefill,both,return,basic-by-layer,return-by-layer"
_SERVE: dict[Size, tuple[tuple[str, str, float], ...]] = {
    Size.QUICK: (
        ("sharegpt", "--systems basic,return,vllm-apc --rate 0.2 --sessions 3 --repetitions 1", 400.0),
        ("loogle", "--systems basic,return --rate 0.2 --sessions 3 --repetitions 1", 300.0),
        ("react", "--systems basic,return --rate 0.2 --sessions 3 --repetitions 1", 300.0),
    ),
    Size.FULL: tuple(
        (workload, f"--systems {_ALL_SYSTEMS} --rate 0.05,0.1,0.2", 12 * 3600.0)
        for workload in ("sharegpt", "loogle", "react")
    ),
}
_OPERATIONS: dict[Size, tuple[tuple[str, str, float], ...]] = {
    Size.QUICK: (("index", "--scale 10 --systems memserve", 240.0), ("pool", "", 120.0)),
    Size.FULL: (("index", "", 3600.0), ("pool", "", 600.0)),
}
_SIMULATED = {Size.QUICK: ("--sessions 60 --seeds 1 --loads 2", 300.0), Size.FULL: ("", 4 * 3600.0)}
_STUDY_DEADLINE_S = {Size.QUICK: 240.0, Size.FULL: 3600.0}


def parts_of(size: Size) -> list[Part]:
    """Everything that the report shows; what needs no engine comes first."""
    studies = [
        Part(
            name=f"study-{name}",
            arguments=("bench", "study", name, "--size", str(size)),
            deadline_s=_STUDY_DEADLINE_S[size],
        )
        for name in STUDIES
    ]
    operations = [
        Part(name=name, arguments=("bench", name, *options.split()), deadline_s=deadline_s)
        for name, options, deadline_s in _OPERATIONS[size]
    ]
    served = [
        Part(
            name=f"serve-{workload}",
            arguments=("bench", "serve", "--workload", workload, *options.split()),
            deadline_s=deadline_s,
        )
        for workload, options, deadline_s in _SERVE[size]
    ]
    arguments, deadline_s = _SIMULATED[size]
    simulated = Part(
        name="simulation-paper", arguments=("bench", "simulated", "paper", *arguments.split()), deadline_s=deadline_s
    )
    return [*operations, simulated, *studies, *served]


def run_parts(parts: Sequence[Part], *, results: Path, say: Say, program: Sequence[str] = ()) -> list[Outcome]:
    """All that have no result yet. Raises ConfigError when the folder cannot be made."""
    try:
        (results / "logs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the folder {results}/logs: {error.strerror}; name another one") from error
    outcomes = []
    for number, part in enumerate(parts, 1):
        where = f"[{number}/{len(parts)}] {part.name}"
        if part.file(results).exists():
            say(f"{where}: its result is there")
            outcomes.append(Outcome(part=part.name, seconds=0.0))
            continue
        say(f"{where}: memserve {shlex.join(part.command(results))}")
        outcomes.append(_run(part, results, program or (sys.executable, "-m", "memserve")))
        say(f"{where}: {outcomes[-1].problem or 'done'} ({outcomes[-1].seconds:.0f} s)")
    return outcomes


def _run(part: Part, results: Path, program: Sequence[str]) -> Outcome:
    log = results / "logs" / f"{part.name}.log"
    began = time.monotonic()
    with log.open("wb") as output:
        child = subprocess.Popen(
            (*program, *part.command(results)), stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        problem = _wait(child, part.deadline_s)
    return Outcome(
        part=part.name, seconds=time.monotonic() - began, problem=problem or _judge(part, results, log, child)
    )


def _judge(part: Part, results: Path, log: Path, child: "subprocess.Popen[bytes]") -> str:
    """Why there is no result; what was wrong all the same goes with the result itself."""
    if part.file(results).exists():
        return ""
    lines = log.read_text(errors="replace").strip().splitlines()
    words = lines[-1][-_LAST_WORDS:] if lines else "it said nothing"
    return f"ended with status {child.returncode} and no result: {words}; its log is {log}"


def _wait(child: "subprocess.Popen[bytes]", deadline_s: float) -> str:
    """Why it was stopped, "" when it ended by itself. Whatever happens, it is gone afterwards."""
    try:
        child.wait(deadline_s)
    except subprocess.TimeoutExpired:
        return f"stopped after its deadline of {deadline_s:.0f} s"
    finally:
        if child.poll() is None:
            child.send_signal(signal.SIGINT)  # a cluster under it winds up by itself
            try:
                child.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
    return ""

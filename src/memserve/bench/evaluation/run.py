"""`memserve bench evaluation`: every measurement behind the report, one after the other.

Each part is a command of its own with a deadline, a result file and a log. A part whose result is there is not made
again, so that an interrupted run goes on where it ended; one that fails is reported and the rest goes on.

    (part: start -> result file | failed) ...
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
from memserve.bench.evaluation.parts import Part
from memserve.core.errors import ConfigError

_LAST_WORDS = 300


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    part: str
    seconds: float
    problem: str = ""
    """Why there is no result; "" when there is one."""


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How a part is waited for."""

    tell_s: float = 20.0
    """Between two lines about what it said last."""
    stop_s: float = 30.0
    """It may take to end when it is asked to; then it is killed."""


_PACE = Pace()


def run_parts(
    parts: Sequence[Part], *, results: Path, say: Say, program: Sequence[str] = (), pace: Pace = _PACE
) -> list[Outcome]:
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
        attempt = _Attempt(part, results=results, program=program or (sys.executable, "-m", "memserve"), pace=pace)
        outcomes.append(attempt.run(say, where=where))
        say(f"{where}: {outcomes[-1].problem or 'done'} ({outcomes[-1].seconds:.0f} s)")
    return outcomes


class _Attempt:
    """One part as a process with its output in a log; gone when `run` is over, however that ends."""

    def __init__(self, part: Part, *, results: Path, program: Sequence[str], pace: Pace) -> None:
        self._part = part
        self._pace = pace
        self._result = part.file(results)
        self._command = (*program, *part.command(results))
        self._log = results / "logs" / f"{part.name}.log"

    def run(self, say: Say, *, where: str) -> Outcome:
        began = time.monotonic()
        with self._log.open("wb") as output:
            child = subprocess.Popen(self._command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
            try:
                in_time = self._follow(child, say, where=where, deadline=began + self._part.deadline_s)
            finally:
                _end(child, stop_s=self._pace.stop_s)
        seconds = time.monotonic() - began
        if not in_time:
            problem = f"stopped after its deadline of {self._part.deadline_s:.0f} s; its log is {self._log}"
        elif not self._result.exists():
            problem = f"ended with status {child.returncode} and no result: {self._last_line()}; its log is {self._log}"
        else:
            problem = ""
        return Outcome(part=self._part.name, seconds=seconds, problem=problem)

    def _follow(self, child: "subprocess.Popen[bytes]", say: Say, *, where: str, deadline: float) -> bool:
        """Say now and then what it said last; whether it ended in time."""
        while (left := deadline - time.monotonic()) > 0:
            try:
                child.wait(min(left, self._pace.tell_s))
            except subprocess.TimeoutExpired:
                say(f"{where}: {self._last_line()}")
            else:
                return True
        return False

    def _last_line(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1][-_LAST_WORDS:] if lines else "it said nothing"


def _end(child: "subprocess.Popen[bytes]", *, stop_s: float) -> None:
    """As Ctrl-C would, so that a cluster under it winds up by itself; by force when that takes too long."""
    if child.poll() is not None:
        return
    child.send_signal(signal.SIGINT)
    try:
        child.wait(stop_s)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()

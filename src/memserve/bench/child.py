"""The parent's side of a benchmark: measured systems as child processes, one request at a time.

    start -> ask ... -> close        each wait has a deadline; a child past it is killed

A system that cannot start is a Missing with its reason, never silence. Environments of peers are made by
`make bench-peers`.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from memserve.bench.records import Missing
from memserve.core.errors import ConfigError, DeadlineExceeded, InstanceUnavailable

Say = Callable[[str], None]
"""Takes a line about how far the run is."""

_START_DEADLINE_S = 180.0
_DEADLINE_S = 600.0


class SystemSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Where a system lives and what runs it."""

    name: str
    module: str
    """Under memserve.bench.systems."""
    environment: str = ""
    """Folder of a virtual environment under the peers' folder; "" is the one that runs this."""
    arguments: tuple[str, ...] = ()
    variables: Mapping[str, str] = {}
    """Added to the child's environment."""


class SystemChild:
    """One measured system in a process of its own."""

    def __init__(self, spec: SystemSpec, *, peers: Path) -> None:
        """Raises ConfigError with the reason when the system is not to be had here."""
        python = _python(spec, peers)
        self.spec = spec
        self.version = ""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the child
        self._process = subprocess.Popen(
            (python, "-m", f"memserve.bench.systems.{spec.module}", *spec.arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, **spec.variables},
        )
        try:
            hello = self._read(_START_DEADLINE_S)
        except InstanceUnavailable as error:
            self.close()
            raise ConfigError(str(error)) from error
        if "missing" in hello:
            self.close()
            raise ConfigError(hello["missing"])
        self.version = hello["version"]

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, do: str, **request: Any) -> Any:
        """The child's answer. Raises InstanceUnavailable when it refuses or dies, DeadlineExceeded."""
        assert self._process.stdin is not None  # noqa: S101
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self._process.stdin.flush()
        reply = self._read(_DEADLINE_S)
        if "error" in reply:
            raise InstanceUnavailable(f"{self.spec.name} failed at {do}: {reply['error']}")
        return reply["value"]

    def close(self) -> None:
        """Ask it to end, then make it; idempotent."""
        assert self._process.stdin is not None  # noqa: S101
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None  # noqa: S101
        self._process.stdout.close()
        self._log.close()

    def __enter__(self) -> "SystemChild":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, deadline_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None  # noqa: S101
        watchdog = threading.Timer(deadline_s, self._process.kill)
        watchdog.start()
        line = self._process.stdout.readline()
        in_time = watchdog.is_alive()
        watchdog.cancel()
        if line:
            reply: dict[str, Any] = json.loads(line)
            return reply
        if not in_time:
            raise DeadlineExceeded(f"{self.spec.name} did not answer within {deadline_s:.0f} s")
        status = self._process.wait()
        raise InstanceUnavailable(f"{self.spec.name} ended with status {status}: {self._last_words()}")

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


def start_all(specs: tuple[SystemSpec, ...], *, peers: Path) -> tuple[list[SystemChild], list[Missing]]:
    """Those that start, and why the others do not."""
    running: list[SystemChild] = []
    missing: list[Missing] = []
    for spec in specs:
        try:
            running.append(SystemChild(spec, peers=peers))
        except ConfigError as error:
            missing.append(Missing(system=spec.name, reason=str(error)))
    return running, missing


def _python(spec: SystemSpec, peers: Path) -> str:
    if not spec.environment:
        return sys.executable
    python = peers / spec.environment / "bin" / "python"
    if not python.exists():
        raise ConfigError(f"{python} does not exist: `make bench-peers` builds it")
    return str(python)

"""Runs the memserve command as a process over engines that stand for vLLM. Not a test."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

FAKE_SITE = Path(__file__).parent / "fake_site"
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - POSIX shared memory lies here
LINE_DEADLINE_S = 90.0
_PATH = os.pathsep.join(filter(None, (str(FAKE_SITE), os.environ.get("PYTHONPATH"))))


class Command:
    """A memserve process whose output is read line by line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.lines: list[str] = []

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    async def line_with(self, text: str) -> str:
        """The first line, read from now on, that holds `text`."""
        assert self._process.stdout is not None
        async with asyncio.timeout(LINE_DEADLINE_S):
            while line := (await self._process.stdout.readline()).decode():
                self.lines.append(line.rstrip())
                if text in line:
                    return line.rstrip()
        raise AssertionError(f"the command ended without a line with {text!r}: {self.lines}")

    async def url(self) -> str:
        """Where the gateway serves, once it says so."""
        return (await self.line_with("serving smollm2-135m-instruct on http://")).rpartition(" ")[2]

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def status(self, *, within_s: float) -> int:
        """Exit status once it has ended; the rest of its output is in `lines`."""
        async with asyncio.timeout(within_s):
            status = await self._process.wait()
        assert self._process.stdout is not None
        rest = (await self._process.stdout.read()).decode()
        self.lines.extend(rest.splitlines())
        return status

    def shared_files(self) -> list[str]:
        """What this command's cluster has in shared memory now; its name is part of the path of each log."""
        clusters = set(re.findall(r"/logs/[\d-]+-([0-9a-f]+)/", self.text))
        assert clusters, self.lines
        return [file.name for cluster in clusters for file in SHARED_MEMORY.glob(f"memserve-{cluster}-*")]

    async def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


@asynccontextmanager
async def memserve(*arguments: str, trouble: str = "") -> AsyncIterator[Command]:
    """The command, stdout and stderr together; killed at the end if it still runs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from memserve.cli import main; main()",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": _PATH, "FAKE_VLLM": trouble, "COLUMNS": "200"},
    )
    command = Command(process)
    try:
        yield command
    finally:
        await command.kill()

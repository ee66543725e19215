"""`memserve demo`: the script, the two servers and the table put together.

Owns the JSON file and the exit status: 0 only when every token is the same as plain vLLM's.
"""

import asyncio
from pathlib import Path

import msgspec
import uvloop
from rich.console import Console

from memserve.bundled.conversations import sharegpt_file
from memserve.cli.serve import log_to_stderr, prepared
from memserve.core.clock import SystemClock
from memserve.core.errors import ConfigError
from memserve.demo.progress import TerminalProgress
from memserve.demo.report import DemoReport
from memserve.demo.script import Scene, write_script
from memserve.demo.servers import DemoServers, demo_config
from memserve.demo.stage import Stage
from memserve.demo.table import render
from memserve.serving.signals import StopSignals

_STOPPED = 130


def run_demo(*, json_file: Path | None) -> int:
    """Play, print, write; exit status. Raises ConfigError when something needed is missing."""
    console = Console()
    log_to_stderr()
    if json_file is not None:
        _check_writable(json_file)
    scenes = write_script(sharegpt_file())
    servers = DemoServers(prepared(demo_config()))
    with TerminalProgress(console) as progress:
        stage = Stage(ours=servers.ours, plain=servers.plain, clock=SystemClock(), progress=progress)
        report = uvloop.run(_run(stage, scenes))
    if report is None:
        return _STOPPED
    console.print(render(report))
    if json_file is not None:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    return 0 if report.tokens_identical else 1


async def _run(stage: Stage, scenes: tuple[Scene, ...]) -> DemoReport | None:
    """None when it was stopped from outside."""
    signals = StopSignals.of_this_task()
    try:
        return await stage.run(scenes)
    except asyncio.CancelledError:
        if not signals.asked_to_stop:
            raise
        return None


def _check_writable(file: Path) -> None:
    try:
        file.touch()
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror}; name another file with --json") from error

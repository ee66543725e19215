"""Launch specs and waits for the manager's tests: real processes, started and seen as the product does."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from memserve.core.enums import Role
from memserve.core.ids import InstanceId
from memserve.manager.launch_plan import LaunchSpec
from memserve.serving.prepare import free_ports

SCRIPT = Path(__file__).parent / "fake_instance.py"


def free_port() -> int:
    return free_ports(1)[0]


def spec(
    folder: Path, name: str = "colocated-0", *, cores: tuple[int, ...] = (), memory: str = "", **told: Any
) -> LaunchSpec:
    """A fake instance told what `told` says."""
    role = name.partition("-")[0]
    argv = (sys.executable, str(SCRIPT), json.dumps({"name": name, "role": role, **told}))
    return LaunchSpec(
        instance=InstanceId(name),
        role=Role(role),
        url=told.get("url", ""),
        argv=argv,
        env={},
        cores=cores,
        log=str(folder / f"{name}.log"),
        shared_memory=memory,
    )


def serving(folder: Path, name: str, join: str) -> LaunchSpec:
    """A fake instance that joins and whose server answers."""
    port = free_port()
    return spec(folder, name, join=join, port=port, url=f"http://127.0.0.1:{port}")


async def until(holds: Callable[[], object], what: str, deadline_s: float = 15.0) -> None:
    """Poll a condition of the outside world, which tells nobody when it changes."""
    try:
        async with asyncio.timeout(deadline_s):
            while not holds():  # noqa: ASYNC110 - nobody signals it
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not within {deadline_s} s: {what}") from None


async def processes(one: LaunchSpec) -> list[int]:
    """Ids of the instance and its helpers, once it has printed them."""
    log = Path(one.log)
    found: list[int] = []

    def printed() -> bool:
        lines = log.read_text().splitlines() if log.exists() else []
        told = next((json.loads(line) for line in lines if line.startswith('{"pid"')), None)
        found[:] = [told["pid"], *told["helpers"]] if told else []
        return bool(told)

    await until(printed, f"{one.instance} printed its process id")
    return found


def alive(pids: list[int]) -> list[int]:
    """Those that run; a zombie does not."""
    return [pid for pid in pids if _state(pid) not in ("", "Z", "X")]


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


@asynccontextmanager
async def leaving_nothing(pids: list[int]) -> AsyncIterator[None]:
    """Kills what a failing test left behind."""
    try:
        yield
    finally:
        for pid in alive(pids):
            os.kill(pid, signal.SIGKILL)

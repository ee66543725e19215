"""A cluster of real processes to be broken: a gateway, and instances that joined it and outlive it.

Owns the processes and the names by which they are found again: every one of them has `CHAOS_RUN` in its environment.
Breaks nothing itself.
"""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import psutil

from memserve.serving.prepare import free_ports

MARK = "CHAOS_RUN"
_STOP_S = 20.0
_POLL_S = 0.1


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """What the cluster is made of."""

    name: str
    model: Path
    roles: dict[str, str]
    """Of each instance, by name."""
    serve_args: tuple[str, ...]
    engine_args: tuple[str, ...] = ()
    site: str = ""
    """Put before everything else on the instances' import path."""
    start_s: float
    """An instance is back within this time, on a busy machine."""


class Joined:
    """One `memserve instance`, from its start until it ends."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.process = process
        self.num_kills = 0

    def engine(self) -> list[psutil.Process]:
        """The engine's own processes, its server first; none while it is being started again."""
        try:
            below = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        return [child for child in below if _is_engine(child)]


class ChaosCluster:
    """`start` once, `stop` always."""

    def __init__(self, shape: Shape, *, folder: Path) -> None:
        self.shape = shape
        self.folder = folder
        self.instances: dict[str, Joined] = {}
        self.serving = asyncio.Event()
        """Cleared while there is no gateway."""
        self.gateway_gaps: list[tuple[float, float]] = []
        """From when to when there was none, in monotonic seconds."""
        self._gateway: asyncio.subprocess.Process | None = None
        self._manager, self._port = free_ports(2)
        self.url = f"http://127.0.0.1:{self._port}"
        self._http: aiohttp.ClientSession | None = None
        self._env = self._environment()

    @property
    def http(self) -> aiohttp.ClientSession:
        assert self._http is not None
        return self._http

    async def start(self) -> None:
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10))
        await self._start_gateway()
        await self._until(self._manager_listens, within_s=self.shape.start_s, what="the manager listens")
        for name in self.shape.roles:
            await self.start_instance(name)
        await self.until_all_active()
        await self._until(self._answers, within_s=self.shape.start_s, what="the gateway answers")
        self.serving.set()

    async def stop(self) -> None:
        """Everything ends as an operator ends it, and is killed where that takes too long."""
        for joined in self.instances.values():
            await _end(joined.process)
        if self._gateway is not None:
            await _end(self._gateway)
        if self._http is not None:
            await self._http.close()

    async def start_instance(self, name: str) -> None:
        command = ["instance", "--role", self.shape.roles[name], "--name", name, "--join", self.manager]
        self.instances[name] = Joined(name, await self._run(name, *command))

    @property
    def manager(self) -> str:
        return f"tcp://127.0.0.1:{self._manager}"

    async def restart_gateway(self, number: signal.Signals) -> None:
        """Ended with that signal and started again at the same addresses; returns when it serves."""
        assert self._gateway is not None
        self.serving.clear()
        began = time.monotonic()
        self._gateway.send_signal(number)
        await asyncio.wait_for(self._gateway.wait(), _STOP_S)
        try:
            await self._start_gateway()
            await self._until(self._answers, within_s=self.shape.start_s, what="the gateway serves again")
        finally:
            self.gateway_gaps.append((began, time.monotonic()))
            self.serving.set()

    async def states(self) -> dict[str, str]:
        """Of all instances; empty while nobody answers."""
        return {one["peer"]["instance"]: one["state"] for one in await self.view()}

    async def view(self) -> list[dict[str, Any]]:
        try:
            async with self.http.get(f"{self.url}/admin/cluster") as answer:
                return list((await answer.json())["view"]["instances"])
        except (aiohttp.ClientError, TimeoutError, KeyError):
            return []

    async def until_all_active(self) -> None:
        """Raises TimeoutError with the states."""
        await self._until(self._all_active, within_s=self.shape.start_s, what="all instances are active")

    async def resumed_at(self, request: str) -> int:
        """How often another instance carried this request's stream on, as the gateway remembers it."""
        try:
            async with self.http.get(f"{self.url}/admin/requests/{request}") as answer:
                return len((await answer.json()).get("resumed_at", ()))
        except (aiohttp.ClientError, TimeoutError):
            return 0

    def endpoints_listening(self) -> list[int]:
        """Ports of the gateway that somebody still listens on."""
        return [port for port in (self._port, self._manager) if _is_open(port)]

    async def _start_gateway(self) -> None:
        alone = ["--prefill", "0", "--decode", "0", "--name", self.shape.name]
        places = ["--manager", f"127.0.0.1:{self._manager}", "--port", str(self._port)]
        args = ["--", *self.shape.engine_args] if self.shape.engine_args else []
        self._gateway = await self._run(
            "gateway", "serve", str(self.shape.model), *alone, *places, *self.shape.serve_args, *args
        )

    async def _run(self, name: str, *command: str) -> asyncio.subprocess.Process:
        with (self.folder / f"{name}.log").open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "memserve", *command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._env,
            )

    def _environment(self) -> dict[str, str]:
        root = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, (self.shape.site, root, os.environ.get("PYTHONPATH"))))
        more = {MARK: self.shape.name, "PYTHONPATH": path, "XDG_CACHE_HOME": str(self.folder), "COLUMNS": "200"}
        return {**os.environ, **more}

    async def _all_active(self) -> bool:
        states = await self.states()
        return {n for n, state in states.items() if state == "active"} == set(self.shape.roles) == set(states)

    async def _manager_listens(self) -> bool:
        return _is_open(self._manager)

    async def _answers(self) -> bool:
        try:
            async with self.http.get(f"{self.url}/v1/models") as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def until_noticed(self, name: str) -> None:
        """No request goes to that instance any more. Raises TimeoutError with the states."""

        async def is_noticed() -> bool:
            return (await self.states()).get(name) != "active"

        await self._until(is_noticed, within_s=30.0, what=f"{name} is no longer active")

    async def until_out(self, name: str) -> None:
        """Another process may take that name. Raises TimeoutError with the states."""

        async def is_out() -> bool:
            return name not in await self.states()

        await self._until(is_out, within_s=60.0, what=f"{name} is out of the cluster")

    async def _until(self, condition: Callable[[], Awaitable[bool]], *, within_s: float, what: str) -> None:
        try:
            async with asyncio.timeout(within_s):
                while not await condition():  # noqa: ASYNC110 - asked over HTTP
                    await asyncio.sleep(_POLL_S)
        except TimeoutError as error:
            raise TimeoutError(f"not within {within_s:g} s: {what}; now {await self.states()}") from error


def marked_processes(name: str) -> Iterator[psutil.Process]:
    """All processes of a run, wherever they hang in the tree."""
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == name and process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _is_engine(process: psutil.Process) -> bool:
    try:
        line: Sequence[str] = process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False
    text = " ".join(line)
    return bool(line) and "memserve.manager.guard" not in text and "memserve instance" not in text


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGINT)
    try:
        await asyncio.wait_for(process.wait(), _STOP_S)
    except TimeoutError:
        process.kill()
        await process.wait()

"""Random calls from several processes, with random kills: at the end every block is accounted for.

python -m tests.soak.run [--seconds 600] [--processes 4] [--kill-every 5] [--seed N]

Real pools in processes of their own, on shared memory, disk and TCP, with a real cluster manager that tells
survivors who died. Who comes back finds on disk what it has left there. Ends with status 0 and a summary as its last
line when on every survivor each block is free or cached and nothing is held, no call met anything but what such calls
may meet, no byte was wrong, and nothing is left in /dev/shm.
"""

import argparse
import asyncio
import json
import logging
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random

from memserve.core.clock import SystemClock
from memserve.manager.manager import ClusterManager
from memserve.storage.shared_memory import sweep
from tests.fakes.launching import no_restarts

_PATHS = ("shm,tcp", "tcp", "shm,tcp", "shm")
_STEP_DEADLINE_S = 60.0
_PROGRESS_S = 30.0


class Member:
    """One process, from its start until it is killed or has ended."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, endpoint: str) -> None:
        self.name = name
        self.process = process
        self.endpoint = endpoint

    async def ask(self, command: str) -> str:
        self.tell(command)
        return await self._line()

    def tell(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n".encode())

    async def _line(self) -> str:
        assert self.process.stdout is not None
        async with asyncio.timeout(_STEP_DEADLINE_S):
            line = (await self.process.stdout.readline()).decode().strip()
        if not line:
            raise RuntimeError(f"{self.name} ended by itself; what it wrote says why")
        return line


class Soak:
    def __init__(self, manager: ClusterManager, *, cluster: str, random: Random, folder: Path) -> None:
        self._manager = manager
        self._cluster = cluster
        self._random = random
        self._folder = folder
        self._members: list[Member] = []
        self.num_kills = 0
        self.failures: list[str] = []
        self.calls: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()

    async def start(self, number: int) -> None:
        """Start one process and introduce it to the others."""
        name = f"soak-{number}"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.soak.worker", self._cluster, self._manager.endpoint, name),
            *(str(self._random.randrange(1 << 30)), _PATHS[number % len(_PATHS)], str(self._folder)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        member = Member(name, process, "")
        member.endpoint = await member._line()
        self._members.append(member)
        self._introduce()

    async def kill_one(self) -> None:
        """kill -9, and a new life under the same name."""
        member = self._members.pop(self._random.randrange(len(self._members)))
        member.process.kill()
        await member.process.wait()
        self.num_kills += 1
        self._introduce()
        await asyncio.sleep(self._random.uniform(0.0, 1.0))
        await self.start(int(member.name.removeprefix("soak-")))

    async def end(self) -> None:
        """Everybody gives back what it holds; then each one's books have to balance."""
        await self._all(lambda member: member.ask("settle"))
        for member, said in zip(self._members, await self._all(lambda m: m.ask("balance")), strict=True):
            result = json.loads(said)
            self.calls.update(result["calls"])
            self.errors.update(result["errors"])
            self.failures += [f"{member.name}: {story}" for story in result["unexpected"]]
            if result["open"]:
                self.failures.append(f"{member.name} still has {result['open']}")
        await self._all(self._finish)
        sweep(f"{self._cluster}-")  # as a guard does for an instance that was killed
        self.failures += [f"{path} is left" for path in _files(self._cluster)]

    async def kill_all(self) -> None:
        """Of a run that went wrong: nobody is left who could hold a file."""
        for member in self._members:
            if member.process.returncode is None:
                member.process.kill()
                await member.process.wait()

    async def _finish(self, member: Member) -> str:
        assert member.process.stdin is not None
        member.process.stdin.close()
        async with asyncio.timeout(_STEP_DEADLINE_S):
            status = await member.process.wait()
        if status:
            self.failures.append(f"{member.name} ended with status {status}")
        return ""

    async def _all(self, what: Callable[[Member], Awaitable[str]]) -> list[str]:
        return await asyncio.gather(*map(what, self._members))

    def _introduce(self) -> None:
        for member in self._members:
            member.tell(" ".join(["peers", *(m.endpoint for m in self._members if m is not member)]))


async def soak(*, seconds: float, processes: int, kill_every_s: float, seed: int) -> bool:
    cluster = f"soak{os.getpid()}"
    random = Random(seed)
    manager = ClusterManager(
        cluster=cluster,
        bind="127.0.0.1",
        clock=SystemClock(),
        on_report=lambda _: None,
        on_change=lambda _view, _dead: None,
        launcher=no_restarts,
    )
    await manager.start()
    folder = tempfile.TemporaryDirectory(prefix="memserve-soak-")
    run = Soak(manager, cluster=cluster, random=random, folder=Path(folder.name))
    started = time.monotonic()
    try:
        await asyncio.gather(*map(run.start, range(processes)))
        end, told = started + seconds, started
        while (left := end - time.monotonic()) > 0:
            await asyncio.sleep(min(left, random.expovariate(1 / kill_every_s)))
            if time.monotonic() < end:
                await run.kill_one()
            if time.monotonic() - told > _PROGRESS_S:
                told = time.monotonic()
                _say(f"{told - started:.0f} s, {run.num_kills} kills")
        await run.end()
    finally:
        await run.kill_all()
        await manager.stop()
        sweep(f"{cluster}-")
        folder.cleanup()
    for failure in run.failures:
        _say(f"FAILED {failure}")
    errors = ", ".join(f"{number} {name}" for name, number in run.errors.most_common()) or "none"
    _say(f"refused on the way: {errors}")
    verdict = f"{len(run.failures)} FAILURES" if run.failures else "every block accounted for, /dev/shm clean"
    _say(
        f"soak: {time.monotonic() - started:.0f} s, {processes} processes, seed {seed}, {run.num_kills} kills, "
        f"{run.calls.total()} calls of the survivors ({len(run.calls)} kinds): {verdict}"
    )
    return not run.failures


def _files(cluster: str) -> list[Path]:
    return sorted(Path("/dev/shm").glob(f"memserve-{cluster}-*"))  # noqa: S108


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--kill-every", type=float, default=5.0, help="seconds, on average")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    asked = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    well = asyncio.run(
        soak(seconds=asked.seconds, processes=asked.processes, kill_every_s=asked.kill_every, seed=asked.seed)
    )
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()

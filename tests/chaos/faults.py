"""What is done to a cluster under load, one fault at a time, each undone before the next one.

Owns the order and the length of faults, from a seed, and the times at which each was felt: from its beginning until
all instances are active again. Fewer instances are hurt at a time than there are, so that one is always left to
serve; while the gateway is restarted none can be reached.
"""

import asyncio
import contextlib
import ctypes
import os
import resource
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from random import Random

import msgspec
import psutil

from tests.chaos.cluster import ChaosCluster, Joined
from tests.etcd_server import EtcdServer

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - POSIX shared memory lies here
MAX_FILLER_BYTES = 4 << 30
"""A folder with more room than this is not filled."""
_LEFT_FREE_BYTES = 64 << 10
_PIDFD_GETFD = 438
"""The number of this call on every architecture."""
_MAX_KILLS = 2
"""Of one engine, whose supervisor waits longer each time; then the supervisor is killed, too, and replaced."""
_ENOUGH_FOR_TWO = 3
_CALM_S = 1.0


class Window(msgspec.Struct):
    """While a fault was felt, in monotonic seconds."""

    kind: str
    start: float
    end: float = float("inf")


class Faults:
    """`run` until told to stop. `folders`: the one that holds shared memory and the disk tiers' one, if fillable."""

    def __init__(
        self,
        cluster: ChaosCluster,
        *,
        random: Random,
        disk: Path,
        may_fill: bool,
        only: str,
        etcd: EtcdServer | None = None,
    ) -> None:
        self._cluster = cluster
        self._random = random
        self._disk = disk
        self._etcd = etcd
        self.windows: list[Window] = []
        self.failures: list[str] = []
        self.not_run: dict[str, str] = {}
        self._kinds: dict[str, Callable[[], Awaitable[None]]] = {
            "killed": self.kill,
            "stopped": self.stop,
            "cut off": self.cut_off,
            "slowed down": self.slow_down,
            "gateway restarted": self.restart_gateway,
            "full disk": self.fill_disk,
            "full /dev/shm": self.fill_shared_memory,
            "two at once": self.hurt_two,
        }
        if len(cluster.shape.roles) < _ENOUGH_FOR_TWO:
            del self._kinds["two at once"]
        if etcd is not None:
            self._kinds |= {"etcd restarted": self.restart_etcd, "etcd stalled": self.stall_etcd}
        if only:
            self._kinds = {only: self._kinds[only]}
        if not may_fill and self._kinds.pop("full /dev/shm", None):
            self.not_run["full /dev/shm"] = "needs a mount namespace of its own (unshare -m)"

    @property
    def kinds(self) -> list[str]:
        return list(self._kinds)

    async def run(self, *, seconds: float) -> None:
        """Every kind once, in a random order, then any; ends with all instances active."""
        end, waiting = time.monotonic() + seconds, self._random.sample(self.kinds, len(self._kinds))
        while time.monotonic() < end:
            kind = waiting.pop() if waiting else self._random.choice(self.kinds)
            window = Window(kind, time.monotonic())
            self.windows.append(window)
            try:
                await self._kinds[kind]()
                await self._cluster.until_all_active()
            except TimeoutError as error:
                self.failures.append(f"after {kind}: {error}")
                return
            finally:
                window.end = time.monotonic()
            await asyncio.sleep(self._random.uniform(0.2, 2 * _CALM_S))
        for kind in waiting:
            self.not_run[kind] = "no time was left"

    # ------------------------------------------------------------ each kind

    async def kill(self) -> None:
        """kill -9 of an engine, or of one of its processes; its supervisor starts it again."""
        await self._kill(await self._any_instance())

    async def _kill(self, joined: Joined) -> None:
        engine = joined.engine()
        _kill(engine if self._random.random() < 0.5 else [_computing(engine)])
        joined.num_kills += 1
        if joined.num_kills > _MAX_KILLS:
            joined.process.kill()
            await joined.process.wait()
            await asyncio.to_thread(psutil.wait_procs, engine, timeout=30)
            await self._cluster.until_out(joined.name)
            await self._cluster.start_instance(joined.name)
        await self._cluster.until_noticed(joined.name)

    async def stop(self) -> None:
        """SIGSTOP for seconds: shorter than anybody notices, long enough to be suspected, or to be taken for dead."""
        (seconds,) = self._random.choices((0.5, 3.0, 8.0, 24.0), (3, 3, 3, 1))
        with _stopped((await self._any_instance()).engine()):
            await asyncio.sleep(seconds)

    async def cut_off(self) -> None:
        """Every connection that it has is shut down, again and again, for a while."""
        engine = (await self._any_instance()).engine()
        end = time.monotonic() + self._random.uniform(0.0, 3.0)
        _cut(engine)
        while time.monotonic() < end:
            await asyncio.sleep(0.1)
            _cut(engine)

    async def slow_down(self) -> None:
        """It gets a tenth of its time."""
        engine = (await self._any_instance()).engine()
        end = time.monotonic() + 4.0
        while time.monotonic() < end:
            with _stopped(engine):
                await asyncio.sleep(0.09)
            await asyncio.sleep(0.01)

    async def hurt_two(self) -> None:
        """One stands still while another is killed."""
        still, killed = self._random.sample(sorted(self._cluster.instances), 2)
        with _stopped(self._cluster.instances[still].engine()):
            await self._kill(self._cluster.instances[killed])
            await asyncio.sleep(self._random.uniform(0.0, 4.0))

    async def restart_gateway(self) -> None:
        """By kill -9 or as an operator does; half of the times an engine is killed with it."""
        if self._random.random() < 0.5:
            _kill((await self._any_instance()).engine())
        await self._cluster.restart_gateway(self._random.choice((signal.SIGKILL, signal.SIGINT)))

    async def restart_etcd(self) -> None:
        """By kill -9, on the data it has."""
        assert self._etcd is not None
        await self._etcd.kill()
        await asyncio.sleep(self._random.uniform(0.0, 3.0))
        await self._etcd.start()

    async def stall_etcd(self) -> None:
        assert self._etcd is not None
        self._etcd.pause()
        try:
            await asyncio.sleep(5.0)
        finally:
            self._etcd.go_on()

    async def fill_disk(self) -> None:
        """No byte more fits on the disk tiers' disk, and one instance's writes to the room it has fail as well."""
        engine = (await self._any_instance()).engine()
        async with _filled(self._disk):
            with _no_file_writes(engine):
                await asyncio.sleep(4.0)

    async def fill_shared_memory(self) -> None:
        """A pool that is to grow is refused, and an instance that is killed cannot come back before there is room."""
        joined = await self._any_instance()
        async with _filled(SHARED_MEMORY):
            url = f"{self._cluster.url}/admin/instances/{joined.name}/pool"
            async with self._cluster.http.put(url, json={"dram": "2GiB"}) as answer:
                if answer.status != 409:
                    self.failures.append(f"growing into a full /dev/shm was answered {answer.status}")
            _kill(joined.engine())
            joined.num_kills += 1
            await self._cluster.until_noticed(joined.name)
            await asyncio.sleep(3.0)

    # ------------------------------------------------------------ what they need

    async def _any_instance(self) -> Joined:
        joined = self._cluster.instances[self._random.choice(sorted(self._cluster.instances))]
        if not joined.engine():
            raise TimeoutError(f"{joined.name} has no engine although it is active")
        return joined


def _computing(engine: list[psutil.Process]) -> psutil.Process:
    """Where the server has its engine in a process of its own, that one."""
    return next((process for process in engine if "EngineCore" in " ".join(process.cmdline())), engine[0])


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


@contextmanager
def _stopped(processes: list[psutil.Process]) -> Iterator[None]:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()


def _cut(processes: list[psutil.Process]) -> None:
    """Shut down the connections of others: the kernel gives us their descriptors."""
    for process in processes:
        try:
            watch = os.pidfd_open(process.pid)
            connected = [c.fd for c in process.net_connections("tcp") if c.status == psutil.CONN_ESTABLISHED]
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
        for fd in connected:
            own = ctypes.CDLL(None).syscall(_PIDFD_GETFD, watch, fd, 0)
            if own >= 0:
                with socket.socket(fileno=own) as taken, contextlib.suppress(OSError):
                    taken.shutdown(socket.SHUT_RDWR)
        os.close(watch)


@contextmanager
def _no_file_writes(processes: list[psutil.Process]) -> Iterator[None]:
    """Writing to any file fails: a limit stands in for the error of a disk that is full under a file with holes."""
    before = {}
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            before[process.pid] = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1, before[process.pid][1]))
    try:
        yield
    finally:
        for pid, limits in before.items():
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)


@asynccontextmanager
async def _filled(folder: Path) -> AsyncIterator[None]:
    """All room of a file system is taken by one file, which is gone in any case afterwards."""
    status = os.statvfs(folder)
    room = status.f_bavail * status.f_frsize - _LEFT_FREE_BYTES
    filler = folder / f"chaos-filler-{os.getpid()}"
    if not 0 < room <= MAX_FILLER_BYTES:
        yield
        return
    try:
        with filler.open("wb") as file:
            await asyncio.to_thread(os.posix_fallocate, file.fileno(), 0, room)
        yield
    finally:
        filler.unlink(missing_ok=True)

"""One instance, or another process that is supervised, as a child of this one.

Owns the process and its log file. Decides nothing: what to run is in the LaunchSpec, what an end
means is for whoever started it. The child has a guard above it (guard.py), which ends the child's
whole process group within seconds when told to, and also when this process dies without a word.

    Child: start -> wait -> (ended)      stop may come at any time and again
"""

import asyncio
import os
import ssl
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Generic, TypeVar

from memserve.core.errors import ConfigError
from memserve.manager.failure import reason
from memserve.manager.guard import AT_ONCE, command, remove_files
from memserve.manager.launch_plan import ProcessSpec
from memserve.manager.machine import Machine
from memserve.security.secret import ClusterSecret

S = TypeVar("S", bound=ProcessSpec)

Handed = AbstractContextManager[tuple[tuple[str, ...], tuple[int, ...]]]
"""More arguments, and the descriptors that the child inherits: of one life only, so they stand in no plan."""
NOTHING: Handed = nullcontext(((), ()))

_STOP_S = 8.0
"""The guard needs up to 5 s before it kills; beyond this it is killed itself, and its child by the kernel."""
_LOG_TAIL_BYTES = 256 << 10


class Child(Generic[S]):
    """One running process under its guard."""

    def __init__(self, spec: S, process: asyncio.subprocess.Process, *, log_begin: int) -> None:
        """What it says stands in the log from `log_begin` bytes on: an earlier life may have written before."""
        self.spec = spec
        self._process = process
        self._log_begin = log_begin

    @property
    def pid(self) -> int:
        """Of the guard."""
        return self._process.pid

    async def wait(self) -> int:
        """Exit code as a shell has it, once the child, its group and its shared memory are gone."""
        code = await self._process.wait()
        await asyncio.to_thread(remove_files, self.spec.shared_memory)
        return code

    async def why_it_ended(self) -> str:
        """One line for an operator from the log and the exit code, and where the log is; only after `wait`."""
        log = await asyncio.to_thread(_tail, Path(self.spec.log), self._log_begin)
        return f"{reason(log, self._process.returncode or 0)}; its log is {self.spec.log}"

    async def stop(self) -> None:
        """End it, gently at first; returns when it is gone, within 10 s. Idempotent."""
        if self._process.returncode is None:
            self._process.terminate()
        try:
            async with asyncio.timeout(_STOP_S):
                await self.wait()
        except TimeoutError:
            self._process.kill()
            await self.wait()

    def kill(self) -> None:
        """End it and its helpers at once, whatever it does, even where it stands still; `wait` tells when."""
        if self._process.returncode is None:
            self._process.send_signal(AT_ONCE)

    def __repr__(self) -> str:
        state = "running" if self._process.returncode is None else f"ended with {self._process.returncode}"
        return f"Child({self.spec.instance}, pid {self.pid}, {state})"


async def start(spec: S, machine: Machine, handed: Handed = NOTHING) -> Child[S]:
    """Start the child; its output goes to `spec.log`. Raises ConfigError when that cannot be done."""
    try:
        log = await asyncio.to_thread(_open_log, Path(spec.log))
        log_begin = os.fstat(log).st_size
        try:
            with handed as (options, inherited):
                process = await asyncio.create_subprocess_exec(
                    *command(
                        argv=(*spec.argv, *options),
                        cores=spec.cores,
                        shared_memory=spec.shared_memory,
                        python=machine.python,
                        outlives=spec.outlives,
                    ),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**machine.environment, **spec.env},
                    pass_fds=inherited,
                    start_new_session=True,
                )
        finally:
            os.close(log)
    except OSError as error:
        raise ConfigError(f"cannot start {spec.instance}: {error}") from error
    return Child(spec, process, log_begin=log_begin)


@contextmanager
def certified(secret: ClusterSecret | None) -> Iterator[tuple[tuple[str, ...], tuple[int, ...]]]:
    """For an instance: with a secret, its HTTP server has a certificate of the cluster, and talks to who has one, too.

    Fits Handed.
    """
    if secret is None:
        yield (), ()
        return
    from memserve.security.issued import issued_file  # noqa: PLC0415 - X.509 is loaded where there is a secret only

    with issued_file(secret) as fd:
        yield server_options(f"/proc/self/fd/{fd}"), (fd,)


def server_options(pem: str) -> tuple[str, ...]:
    """vLLM's, for TLS with the key, certificate and CA in this file; whoever shows no certificate of that CA is out."""
    return (
        *("--ssl-certfile", pem, "--ssl-keyfile", pem, "--ssl-ca-certs", pem),
        *("--ssl-cert-reqs", str(int(ssl.CERT_REQUIRED))),
    )


def _open_log(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def _tail(path: Path, begin: int) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(begin, file.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError as error:
        return f"OSError: the log {path} cannot be read: {error.strerror}"

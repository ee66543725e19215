"""Guard: the small process between the gateway and one instance, so that none is ever left behind.

    gateway ── guard (own session) ── instance (own process group) ── its helpers

Ends the instance (SIGTERM, after `_GRACE_S` SIGKILL to its group; SIGUSR1 kills at once) when told to, and when
the gateway dies, even by kill -9: the kernel then signals the guard. One that may outlive its gateway, because
others share the cluster, goes on then, and ends its instance when that is dismissed (SIGUSR2 from the instance).
When the guard itself is killed, the kernel kills the instance. When the instance ends, what is left of its group
goes too, then its shared memory: the pool's by name, and what else the group had mapped when it was told to end.
Exits with the instance's code, or 128 + the number of the signal that ended it.

Run as `python -m memserve.manager.guard PARENT BOND CORES PREFIX COMMAND...`, where BOND is "ends-with-parent" or
"outlives-parent"; imports nothing heavy.
"""

import ctypes
import glob
import os
import signal
import sys
import time
from pathlib import Path

from memserve.manager.shared_files import mapped_by_group, remove_unused

_PR_SET_PDEATHSIG = 1
_GRACE_S = 5.0
_LAST_MOMENT_S = 1.0
_STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
AT_ONCE = signal.SIGUSR1
"""Sent to a guard: kill the instance without asking it first."""
_DISMISSED = signal.SIGUSR2
_OUTLIVES = "outlives-parent"
_GUARD = "MEMSERVE_GUARD"
"""As in memserve.instance.guarded."""


def command(
    *, argv: tuple[str, ...], cores: tuple[int, ...], shared_memory: str, python: str, outlives: bool
) -> list[str]:
    """The argv that runs `argv` under a guard; the calling process is the one whose death ends it, or does not."""
    listed = ",".join(str(core) for core in cores)
    bond = _OUTLIVES if outlives else "ends-with-parent"
    return [python, "-m", "memserve.manager.guard", str(os.getpid()), bond, listed, shared_memory, *argv]


def remove_files(prefix: str) -> None:
    """Unlink every file whose path begins with `prefix`; "" names none."""
    if prefix:
        for path in glob.glob(glob.escape(prefix) + "*"):  # noqa: PTH207 - a prefix, not a folder
            Path(path).unlink(missing_ok=True)


def main(arguments: list[str]) -> int:
    parent, bond, cores, prefix, *argv = arguments
    signal.pthread_sigmask(signal.SIG_BLOCK, {*_STOP, AT_ONCE, _DISMISSED, signal.SIGCHLD})
    if bond != _OUTLIVES:
        _die_with_parent(signal.SIGTERM)
        if os.getppid() != int(parent):
            return 128 + signal.SIGTERM
    if cores:
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    child = _spawn(argv)
    mapped: set[str] = set()
    try:
        return os.waitstatus_to_exitcode(_watch(child, mapped, parent=int(parent)))
    finally:
        mapped |= mapped_by_group(child)
        _await_group(child)
        _signal_group(child, signal.SIGKILL)
        remove_files(prefix)
        remove_unused(mapped, by_others_than=child)


def _spawn(argv: list[str]) -> int:
    guard = os.getpid()
    child = os.fork()
    if child:
        _own_group(child)
        return child
    try:
        os.setpgid(0, 0)
        _die_with_parent(signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        if os.getppid() == guard:
            os.environ[_GUARD] = str(guard)
            os.execvp(argv[0], argv)  # noqa: S606 - the instance's own command, no shell
    except OSError as error:
        os.write(2, f"OSError: cannot start {argv[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(127)


def _own_group(child: int) -> None:
    """The child does the same; whoever comes first, the group exists before anyone signals it."""
    try:
        os.setpgid(child, child)
    except (PermissionError, ProcessLookupError):
        return  # it runs its command already, or has ended


def _watch(child: int, mapped: set[str], *, parent: int) -> int:
    """The child's wait status, once it has ended by itself or was ended; `mapped` gets the files it had by then.

    A dismissed one is ended by `parent`, and here only when that is gone.
    """
    kill_at: float | None = None
    while True:
        left_s = 3600.0 if kill_at is None else max(0.0, kill_at - time.monotonic())
        got = signal.sigtimedwait({*_STOP, AT_ONCE, _DISMISSED, signal.SIGCHLD}, left_s)
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        is_left = got is not None and got.si_signo == _DISMISSED and os.getppid() != parent
        if got is not None and (got.si_signo in _STOP or is_left) and kill_at is None:
            kill_at = time.monotonic() + _GRACE_S
            mapped |= mapped_by_group(child)
            os.kill(child, signal.SIGTERM)  # it ends its own helpers, in the order that lets them clean up
        elif got is not None and got.si_signo == AT_ONCE:
            mapped |= mapped_by_group(child)
            _signal_group(child, signal.SIGKILL)
        elif got is None and kill_at is not None:
            _signal_group(child, signal.SIGKILL)
            kill_at += _GRACE_S


def _await_group(child: int) -> None:
    """Helper processes that outlive the instance by a moment remove its semaphores; give them that moment."""
    give_up = time.monotonic() + _LAST_MOMENT_S
    while time.monotonic() < give_up:
        try:
            os.killpg(child, 0)
        except ProcessLookupError:
            return
        time.sleep(_LAST_MOMENT_S / 50)


def _signal_group(child: int, number: signal.Signals) -> None:
    try:
        os.killpg(child, number)
    except ProcessLookupError:
        return  # the group is empty already


def _die_with_parent(number: signal.Signals) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.exit(code if code >= 0 else 128 - code)

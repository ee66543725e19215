"""Files in /dev/shm that a group of processes has mapped, so that those it leaves behind can go with it.

vLLM's workers name theirs by chance and do not always come to removing them. Reads /proc, and removes nothing
that another process has mapped. Pools' files are left out: an instance maps its peers' files, too, and its
own ones are removed by name.
"""

import contextlib
import os
from collections.abc import Iterator, Set
from pathlib import Path

_FOLDER = "/dev/shm/"  # noqa: S108 - POSIX shared memory lies here on Linux
_POOLS = f"{_FOLDER}memserve-"
_GONE = " (deleted)"


def mapped_by_group(group: int) -> frozenset[str]:
    """Paths that processes of this process group have mapped now."""
    return frozenset(path for pid in _processes() if _group(pid) == group for path in _mapped(pid))


def remove_unused(paths: Set[str], *, by_others_than: int) -> None:
    """Unlink those that no process outside this group, which is ending, has mapped."""
    if paths:
        others = (pid for pid in _processes() if _group(pid) != by_others_than)
        for path in paths - {path for pid in others for path in _mapped(pid)}:
            with contextlib.suppress(OSError):  # another user's
                Path(path).unlink(missing_ok=True)


def _processes() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal())


def _group(pid: int) -> int:
    """0 for a process that has ended."""
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


def _mapped(pid: int) -> Iterator[str]:
    """Nothing for a process that has ended or belongs to somebody else."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return
    for line in lines:
        path = line.partition(_FOLDER)[2]
        if path and not path.endswith(_GONE) and not (_FOLDER + path).startswith(_POOLS):
            yield _FOLDER + path

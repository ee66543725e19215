"""CPU time of a system's processes, and the priority of threads that only spin. Reads /proc; Linux only."""

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_LOWEST = 19


class _Stat(msgspec.Struct, frozen=True):
    parent: int
    ticks: int
    """Own ones, and those of children that have ended."""


def cpu_seconds(roots: Iterable[int]) -> float:
    """User and system time so far of these processes and all that descend from them."""
    stats = {int(entry.name): stat for entry in _numbered(Path("/proc")) if (stat := _stat(entry)) is not None}
    return sum(stats[pid].ticks for pid in _family(set(roots), stats)) / _TICKS_PER_S


def helper_seconds(roots: Iterable[int]) -> dict[int, float]:
    """The same for each of their threads but the first ones, in which servers do their work; by number."""
    stats = {int(entry.name): stat for entry in _numbered(Path("/proc")) if (stat := _stat(entry)) is not None}
    threads: dict[int, float] = {}
    for pid in _family(set(roots), stats):
        for entry in _numbered(Path(f"/proc/{pid}/task")):
            stat = _stat(entry)
            if stat is not None and int(entry.name) != pid:
                threads[int(entry.name)] = stat.ticks / _TICKS_PER_S
    return threads


def give_lowest_priority(threads: Iterable[int]) -> int:
    """To those that still run; returns how many."""
    count = 0
    for thread in threads:
        try:
            os.setpriority(os.PRIO_PROCESS, thread, _LOWEST)
        except ProcessLookupError:
            continue
        count += 1
    return count


def _family(roots: set[int], stats: dict[int, _Stat]) -> set[int]:
    family = roots & stats.keys()
    while True:
        more = {pid for pid, stat in stats.items() if stat.parent in family} - family
        if not more:
            return family
        family |= more


def _numbered(folder: Path) -> list[Path]:
    try:
        return [entry for entry in folder.iterdir() if entry.name.isdecimal()]
    except FileNotFoundError:
        return []  # the process has ended


def _stat(entry: Path) -> _Stat | None:
    """None when it has ended meanwhile. The name in brackets may hold anything, so fields are counted after it."""
    try:
        fields = (entry / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return _Stat(parent=int(fields[1]), ticks=sum(int(field) for field in fields[11:15]))

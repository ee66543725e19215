"""Block memory that other processes of the host can map: one file in /dev/shm per instance.

Owns the file and the mapping. Each segment of the file is fully allocated before its first use, so that a full
/dev/shm is an error when the pool starts or grows and not a SIGBUS later; its pages are touched in the background.
A segment that is released becomes a hole: its memory is the host's again at once, also while peers have the file
mapped. The owner holds an flock on it as long as it lives; the kernel drops the lock however the process dies, which
is how `sweep` knows an orphan.

    owner:  SharedMemory(...) -> view, ref, grow, shrink -> close (unlinks)
    peer:   attach(ref)       -> view                    -> close (unmaps; the file is not its to remove)

A peer that is told of a block beyond what it has mapped maps the file anew. Views may be taken from any thread;
one thread at a time grows or shrinks.

A child forked from the owner without exec inherits the lock: the file stays until that child is gone, too.
"""

import contextlib
import fcntl
import mmap
import os
import re
import stat
import weakref
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import cast

from memserve.core.errors import ConfigError, InstanceUnavailable, InvalidBlocks
from memserve.core.ids import Incarnation, InstanceId
from memserve.storage.base import MappedStorage, block_view, check_shape
from memserve.storage.prefault import Prefault
from memserve.storage.segments import Segments
from memserve.wire.messages import ArenaRef

_FOLDER = Path("/dev/shm")  # noqa: S108 - POSIX shared memory lies here on Linux
_PREFIX = "memserve-"
_NAME = re.compile(r"[\w.:@+=-]{1,100}")


def host_id() -> str:
    """Boot id of this host: processes with the same one see the same memory."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


class SharedMemory(MappedStorage):
    """The owner's side: creates the file, removes it on close."""

    def __init__(
        self, *, cluster: str, instance: InstanceId, incarnation: Incarnation, num_blocks: int, block_bytes: int
    ) -> None:
        check_shape(num_blocks, block_bytes)
        self._segments = Segments(num_blocks)
        self._num_mapped = num_blocks
        self.block_bytes = block_bytes
        for what, name in (("cluster", cluster), ("instance", instance)):
            if not _NAME.fullmatch(name):
                raise ConfigError(f'{what} "{name}" becomes part of a file name: use letters, digits and . : @ + = - _')
        self._path = _FOLDER / f"{_PREFIX}{cluster}-{instance}-{incarnation}"
        self._fd = _create_locked(self._path)
        self._remove = weakref.finalize(self, _remove, self._path, self._fd, os.getpid())
        try:
            _allocate(self._fd, 0, num_blocks * block_bytes)
            mapped = _map(self._fd, num_blocks * block_bytes, mmap.PROT_READ | mmap.PROT_WRITE)
        except BaseException:
            self._remove()
            raise
        self._memory = memoryview(mapped)
        self._prefault = Prefault(mapped, range(len(mapped)))
        self.ref = ArenaRef(
            host=host_id(), path=str(self._path), block_bytes=self.block_bytes, num_blocks=self._num_mapped
        )
        """What a peer needs to map this memory; stays the same while it grows and shrinks."""

    @property
    def num_blocks(self) -> int:
        """How many blocks have memory."""
        return self._segments.num_blocks

    def segments(self) -> tuple[range, ...]:
        """Positions of the blocks that have memory."""
        return self._segments.backed()

    def view(self, block_index: int, num_blocks: int = 1) -> memoryview:
        # In this order: while another thread grows the memory, what is mapped is never less than the number says.
        num_mapped, memory = self._num_mapped, self._memory
        blocks = range(block_index, block_index + num_blocks)
        return block_view(memory, blocks, num_blocks=num_mapped, block_bytes=self.block_bytes)

    def grow(self, num_blocks: int) -> tuple[int, ...]:
        """Memory for so many more blocks; their positions. Raises ConfigError, and then has not grown."""
        self._require_open()
        size = self.block_bytes
        _require_room(num_blocks * size)
        added = self._segments.next_to_back(num_blocks)
        done: list[range] = []
        try:
            for run in added:
                done.append(run)
                _allocate(self._fd, run.start * size, len(run) * size)
            end = max(self._num_mapped, added[-1].stop)
            if end > self._num_mapped:
                self._memory = memoryview(_map(self._fd, end * size, mmap.PROT_READ | mmap.PROT_WRITE))
                self._num_mapped = end
        except BaseException:
            os.ftruncate(self._fd, self._num_mapped * size)
            self._give_back(range(run.start, min(run.stop, self._num_mapped)) for run in done)
            raise
        self._segments.back(added)
        self._prefault.stop()
        self._prefault = Prefault(self._mapping, *(range(run.start * size, run.stop * size) for run in added))
        return tuple(position for run in added for position in run)

    def shrink(self, positions: Collection[int]) -> None:
        """Give the memory of these blocks back to the host. Nobody may use them any more."""
        self._require_open()
        self._prefault.stop()
        self._give_back(self._segments.release(positions))

    def _give_back(self, holes: Iterable[range]) -> None:
        """Whole pages only: where blocks are no multiple of a page, the edges of a hole stay."""
        page = mmap.PAGESIZE
        for hole in holes:
            start = -(-hole.start * self.block_bytes // page) * page
            end = hole.stop * self.block_bytes // page * page
            if end > start:
                self._mapping.madvise(mmap.MADV_REMOVE, start, end - start)

    @property
    def _mapping(self) -> mmap.mmap:
        return cast("mmap.mmap", self._memory.obj)

    def _require_open(self) -> None:
        if not self._remove.alive:
            raise InvalidBlocks(f"{self._path.name} cannot change its size: the pool is closed")

    def close(self) -> None:
        self._prefault.stop()
        self._memory = memoryview(b"")
        self._remove()

    def __repr__(self) -> str:
        state = "open" if self._remove.alive else "closed"
        return f"SharedMemory({self._path.name}, {self.num_blocks} x {self.block_bytes} bytes, {state})"


class AttachedMemory(MappedStorage):
    """A peer's side: maps somebody else's file, leaves it alone otherwise."""

    def __init__(self, ref: ArenaRef, *, writable: bool) -> None:
        check_shape(ref.num_blocks, ref.block_bytes)
        self.block_bytes = ref.block_bytes
        self._ref = ref
        self._writable = writable
        self._memory = self._mapped()

    @property
    def num_blocks(self) -> int:
        """How many positions are mapped; some of them may be holes."""
        return len(self._memory) // self.block_bytes

    def view(self, block_index: int, num_blocks: int = 1) -> memoryview:
        memory = self._memory
        if memory and block_index + num_blocks > len(memory) // self.block_bytes:
            memory = self._memory = self._mapped()
        num_mapped = len(memory) // self.block_bytes or self._ref.num_blocks
        blocks = range(block_index, block_index + num_blocks)
        return block_view(memory, blocks, num_blocks=num_mapped, block_bytes=self.block_bytes)

    def close(self) -> None:
        self._memory = memoryview(b"")

    def _mapped(self) -> memoryview:
        """All of the file as it is now: its owner may have let it grow."""
        fd, size = _open_peer_file(self._ref, os.O_RDWR if self._writable else os.O_RDONLY)
        try:
            return memoryview(_map(fd, size, mmap.PROT_READ | (mmap.PROT_WRITE if self._writable else 0)))
        finally:
            os.close(fd)

    def __repr__(self) -> str:
        return f"AttachedMemory({Path(self._ref.path).name}, {self.num_blocks} x {self.block_bytes} bytes)"


def attach(ref: ArenaRef, *, writable: bool = True) -> AttachedMemory:
    """Map a peer's memory. Raises InstanceUnavailable when it is on another host, gone or of another size."""
    return AttachedMemory(ref, writable=writable)


def sweep(prefix: str = "") -> tuple[str, ...]:
    """Unlink files whose owner died; returns their names. `prefix` narrows to `memserve-<prefix>*`."""
    removed = []
    for path in sorted(_FOLDER.glob(f"{_PREFIX}{prefix}*")):
        if _is_orphan(path):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
                removed.append(path.name)
    return tuple(removed)


def owner_lives(ref: ArenaRef) -> bool:
    """Whether the process that made this memory still runs on this host and could write to ours."""
    path = Path(ref.path)
    return ref.host == host_id() and path.exists() and not _is_orphan(path)


def _is_orphan(path: Path) -> bool:
    """Nobody holds its lock. False for what cannot be opened: another user's, or gone meanwhile."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # Shared, so that two who ask at the same time do not take each other for the owner.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def _create_locked(path: Path) -> int:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise ConfigError(f"{path} exists: another pool runs under this name; give each instance its own") from error
    except OSError as error:
        raise ConfigError(f"cannot create {path}: {error.strerror}; memserve needs a writable {_FOLDER}") from error
    fcntl.flock(fd, fcntl.LOCK_EX)
    if os.fstat(fd).st_nlink == 0:  # a sweep came between open and flock and took it for an orphan
        os.close(fd)
        return _create_locked(path)
    return fd


def _remove(path: Path, fd: int, owner_pid: int) -> None:
    """Also at interpreter exit when nobody closed; a forked child leaves its parent's file alone."""
    if os.getpid() == owner_pid:
        path.unlink(missing_ok=True)
        os.close(fd)


def _require_room(size: int) -> None:
    """Raise ConfigError unless so many bytes are free now; `_allocate` finds out for sure."""
    free = os.statvfs(_FOLDER)
    if size > free.f_bavail * free.f_frsize:
        raise _no_room(size, f"{size - free.f_bavail * free.f_frsize} too few")


def _allocate(fd: int, start: int, size: int) -> None:
    try:
        os.posix_fallocate(fd, start, size)
    except OSError as error:
        raise _no_room(size, error.strerror) from error


def _no_room(size: int, why: str | None) -> ConfigError:
    free = os.statvfs(_FOLDER)
    return ConfigError(
        f"the pool asks for {size} bytes of shared memory but {_FOLDER} has {free.f_bavail * free.f_frsize} "
        f"bytes free ({why}); make the pool smaller or {_FOLDER} larger"
    )


def _map(fd: int, size: int, protection: int) -> mmap.mmap:
    return mmap.mmap(fd, size, mmap.MAP_SHARED, protection)


def _open_peer_file(ref: ArenaRef, flags: int) -> tuple[int, int]:
    """The file and its size in bytes: what was announced, or more whole blocks since."""
    path = Path(ref.path)
    if ref.host != host_id():
        raise InstanceUnavailable(f"{path.name} lies on another host ({ref.host}): its memory cannot be mapped here")
    if path.parent != _FOLDER or not path.name.startswith(_PREFIX):
        raise InstanceUnavailable(f"{path} is not a pool's memory: those are {_FOLDER / _PREFIX}*")
    try:
        fd = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise InstanceUnavailable(f"cannot map {path}: {error.strerror}; its owner has left") from error
    found = os.fstat(fd)
    announced = ref.num_blocks * ref.block_bytes
    fits = found.st_size >= announced and found.st_size % ref.block_bytes == 0
    if not stat.S_ISREG(found.st_mode) or not fits or found.st_uid != os.geteuid():
        os.close(fd)
        raise InstanceUnavailable(
            f"{path} is not what its owner announced: a file of {announced} bytes or more in blocks of "
            f"{ref.block_bytes}, owned by user {os.geteuid()}, was expected, {found.st_size} bytes of user "
            f"{found.st_uid} found"
        )
    return fd, found.st_size

"""Block memory that other processes of the host can map: one file in /dev/shm per instance.

Owns the file and the mapping. The file is fully allocated before its first use, so that a full
/dev/shm is an error at the start and not a SIGBUS later; its pages are touched in the background.
The owner holds an flock on it as long as it lives; the kernel drops the lock however the process
dies, which is how `sweep` knows an orphan.

    owner:  SharedMemory(...) -> view, ref -> close (unlinks)
    peer:   attach(ref)       -> view      -> close (unmaps; the file is not its to remove)

A child forked from the owner without exec inherits the lock: the file stays until that child is gone, too.
"""

import contextlib
import fcntl
import mmap
import os
import re
import stat
import weakref
from pathlib import Path

from memserve.core.errors import ConfigError, InstanceUnavailable
from memserve.core.ids import Incarnation, InstanceId
from memserve.storage.base import block_view, check_shape
from memserve.storage.prefault import Prefault
from memserve.wire.messages import ArenaRef

_FOLDER = Path("/dev/shm")  # noqa: S108 - POSIX shared memory lies here on Linux
_PREFIX = "memserve-"
_NAME = re.compile(r"[\w.:@+=-]{1,100}")


def host_id() -> str:
    """Boot id of this host: processes with the same one see the same memory."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


class SharedMemory:
    """The owner's side: creates the file, removes it on close."""

    def __init__(
        self, *, cluster: str, instance: InstanceId, incarnation: Incarnation, num_blocks: int, block_bytes: int
    ) -> None:
        check_shape(num_blocks, block_bytes)
        self.num_blocks = num_blocks
        self.block_bytes = block_bytes
        for what, name in (("cluster", cluster), ("instance", instance)):
            if not _NAME.fullmatch(name):
                raise ConfigError(f'{what} "{name}" becomes part of a file name: use letters, digits and . : @ + = - _')
        self._path = _FOLDER / f"{_PREFIX}{cluster}-{instance}-{incarnation}"
        fd = _create_locked(self._path)
        self._remove = weakref.finalize(self, _remove, self._path, fd, os.getpid())
        try:
            _allocate(fd, num_blocks * block_bytes)
            mapped = _map(fd, num_blocks * block_bytes, mmap.PROT_READ | mmap.PROT_WRITE)
        except BaseException:
            self._remove()
            raise
        self._memory = memoryview(mapped)
        self._prefault = Prefault(mapped)

    @property
    def ref(self) -> ArenaRef:
        """What a peer needs to map this memory."""
        return ArenaRef(host=host_id(), path=str(self._path), block_bytes=self.block_bytes, num_blocks=self.num_blocks)

    def view(self, block_index: int) -> memoryview:
        return block_view(self._memory, block_index, num_blocks=self.num_blocks, block_bytes=self.block_bytes)

    def close(self) -> None:
        self._prefault.stop()
        self._memory = memoryview(b"")
        self._remove()

    def __repr__(self) -> str:
        state = "open" if self._remove.alive else "closed"
        return f"SharedMemory({self._path.name}, {self.num_blocks} x {self.block_bytes} bytes, {state})"


class AttachedMemory:
    """A peer's side: maps somebody else's file, leaves it alone otherwise."""

    def __init__(self, ref: ArenaRef, *, writable: bool) -> None:
        check_shape(ref.num_blocks, ref.block_bytes)
        self.num_blocks = ref.num_blocks
        self.block_bytes = ref.block_bytes
        size = ref.num_blocks * ref.block_bytes
        fd = _open_peer_file(ref, size, os.O_RDWR if writable else os.O_RDONLY)
        try:
            self._memory = memoryview(_map(fd, size, mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)))
        finally:
            os.close(fd)
        self._name = Path(ref.path).name

    def view(self, block_index: int) -> memoryview:
        return block_view(self._memory, block_index, num_blocks=self.num_blocks, block_bytes=self.block_bytes)

    def close(self) -> None:
        self._memory = memoryview(b"")

    def __repr__(self) -> str:
        return f"AttachedMemory({self._name}, {self.num_blocks} x {self.block_bytes} bytes)"


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
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
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


def _allocate(fd: int, size: int) -> None:
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        free = os.statvfs(_FOLDER)
        raise ConfigError(
            f"the pool asks for {size} bytes of shared memory but {_FOLDER} has {free.f_bavail * free.f_frsize} "
            f"bytes free ({error.strerror}); make the pool smaller or {_FOLDER} larger"
        ) from error


def _map(fd: int, size: int, protection: int) -> mmap.mmap:
    return mmap.mmap(fd, size, mmap.MAP_SHARED, protection)


def _open_peer_file(ref: ArenaRef, size: int, flags: int) -> int:
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
    if not stat.S_ISREG(found.st_mode) or found.st_size != size or found.st_uid != os.geteuid():
        os.close(fd)
        raise InstanceUnavailable(
            f"{path} is not what its owner announced: a file of {size} bytes owned by user {os.geteuid()} was "
            f"expected, {found.st_size} bytes of user {found.st_uid} found"
        )
    return fd

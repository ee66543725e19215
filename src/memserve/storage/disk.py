"""Blocks in one file on local disk: each is whole and verified when it is read, or it is not there.

Owns the file and an flock on it, so that no second process writes to it. The file is fully allocated before
its first use and never grows: a full disk is an error at the start.

    [ head: whose blocks ][ slot 0: header | bytes ][ slot 1: header | bytes ] ...

A write blanks the header, writes the bytes, then the header with their checksum: a process that is killed in
between leaves a slot without a block. Bytes that a power failure or a bad disk has changed fail their checksum.
A header also carries a label, opaque here, by which the block is known again after a restart.

    DiskStorage(...) -> labels -> read, write, forget, erase -> close     (the file stays)

Thread-safe, but for two writers of one block.
"""

import contextlib
import fcntl
import logging
import os
import stat
import struct
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import xxhash

from memserve.core.errors import ConfigError, IdentityMismatch, InvalidBlocks, StorageFailed
from memserve.storage.base import check_index
from memserve.wire.identity import KvIdentity

_log = logging.getLogger(__name__)

_PAGE = 4096
_MAGIC = b"memserve disk 1\n"
_HEAD = struct.Struct("<16sQI")
"""Magic, xxh3-64 of the identity, its length; the identity follows as MessagePack."""
_HEADER = struct.Struct("<QQQI")
"""xxh3-64 of all that follows in the header, the slot's number, xxh3-64 of the bytes, the label's length."""
_BLANK = bytes(_HEADER.size)


class DiskStorage:
    """A Storage of whole blocks; cannot be mapped."""

    def __init__(self, path: Path, *, identity: KvIdentity, size_bytes: int, label_bytes: int) -> None:
        """As many blocks as fit into `size_bytes`, labels of at most `label_bytes` each.

        Blocks of another model or layout in the file are given up. Raises ConfigError when the file cannot be
        used: unwritable, in use, no room on the disk, or not made by memserve.
        """
        self.block_bytes = identity.block_bytes
        self._label_bytes = label_bytes
        self._header_bytes = -(-(_HEADER.size + label_bytes) // _PAGE) * _PAGE
        self._slot_bytes = self._header_bytes + -(-self.block_bytes // _PAGE) * _PAGE
        self.num_blocks = max(0, size_bytes - _PAGE) // self._slot_bytes
        if self.num_blocks < 1:
            raise ConfigError(
                f"{size_bytes} bytes of disk hold no block of {self.block_bytes} bytes: "
                f"give at least {_PAGE + self._slot_bytes}"
            )
        self._path = path
        self._fd = _open_locked(path)
        self._unused = threading.Condition()
        self._num_using = 0
        self._is_open = True
        self._forgotten: set[int] = set()
        try:
            self._prepare(identity)
        except BaseException:
            self.close()
            raise

    def read(self, block_index: int, target: memoryview) -> None:
        """Fill `target`, `block_bytes` long. Raises StorageFailed when the block is not there whole."""
        header = bytearray(self._header_bytes)
        with self._using(block_index):
            try:
                num_read = os.preadv(self._fd, [header, target], self._at(block_index))
            except OSError as error:
                raise StorageFailed(f"block {block_index} of {self._path}: {error.strerror}") from error
        stored = self._parse(block_index, header)
        if stored is None or num_read != len(header) + self.block_bytes:
            raise StorageFailed(f"block {block_index} of {self._path} is not there whole")
        if stored[0] != xxhash.xxh3_64_intdigest(target):
            raise StorageFailed(f"block {block_index} of {self._path} is not what was written: its checksum differs")

    def write(self, block_index: int, source: memoryview, *, label: bytes = b"") -> None:
        """Raises StorageFailed, and the block is not there then."""
        if len(source) != self.block_bytes or len(label) > self._label_bytes:
            raise InvalidBlocks(
                f"{len(source)} bytes with a label of {len(label)}: "
                f"a block here has {self.block_bytes}, a label at most {self._label_bytes}"
            )
        with self._using(block_index):
            at, header = self._at(block_index), _header(block_index, source, label)
            try:
                with self._unused:
                    self._forgotten.discard(block_index)
                    os.pwrite(self._fd, _BLANK, at)
                _write_all(self._fd, source, at + self._header_bytes)
                _write_all(self._fd, memoryview(header), at)
            except OSError as error:
                raise StorageFailed(f"block {block_index} of {self._path}: {error.strerror}") from error

    def labels(self) -> Iterator[tuple[int, bytes]]:
        """Every block that was written whole with a label, by number. Its bytes are verified when they are read."""
        for block_index in range(self.num_blocks):
            with self._using(block_index):
                header = os.pread(self._fd, self._header_bytes, self._at(block_index))
            stored = self._parse(block_index, header)
            if stored is not None and stored[1]:
                yield block_index, stored[1]

    def forget(self, block_indices: Iterable[int]) -> None:
        """Nobody wants these blocks any more: `erase` makes sure that no restart finds them. Touches no disk."""
        with self._unused:
            self._forgotten.update(block_indices)

    def erase(self) -> None:
        """Remove what was forgotten and not written since. Raises StorageFailed."""
        while self._forgotten:
            with self._unused:
                if not self._forgotten or not self._is_open:
                    return
                block_index = self._forgotten.pop()
                try:
                    os.pwrite(self._fd, _BLANK, self._at(block_index))
                except OSError as error:
                    raise StorageFailed(f"block {block_index} of {self._path}: {error.strerror}") from error

    def close(self) -> None:
        """Wait for reads and writes under way, then give the file back; it stays on disk. Idempotent."""
        with self._unused:
            was_open, self._is_open = self._is_open, False
            self._unused.wait_for(lambda: not self._num_using)
            if was_open:
                os.close(self._fd)

    def _prepare(self, identity: KvIdentity) -> None:
        if not self._has_blocks_of(identity):
            os.ftruncate(self._fd, 0)
        size = _PAGE + self.num_blocks * self._slot_bytes
        size_before = min(size, os.fstat(self._fd).st_size)
        try:
            os.ftruncate(self._fd, size_before)
            os.posix_fallocate(self._fd, 0, size)
        except OSError as error:
            os.ftruncate(self._fd, size_before)
            free = os.statvfs(self._path.parent)
            raise ConfigError(
                f"{self._path} is to hold {size} bytes, but its disk has {free.f_bavail * free.f_frsize} bytes free "
                f"({error.strerror}): give the disk tier less"
            ) from error
        raw = msgspec.msgpack.encode(identity)
        _write_all(self._fd, memoryview(_HEAD.pack(_MAGIC, xxhash.xxh3_64_intdigest(raw), len(raw)) + raw), 0)

    def _has_blocks_of(self, identity: KvIdentity) -> bool:
        """Raises ConfigError when the file holds something that memserve did not write."""
        head = os.pread(self._fd, _PAGE, 0)
        if not head.strip(b"\0"):
            return False
        magic, checksum, length = _HEAD.unpack_from(head) if len(head) >= _HEAD.size else (b"", 0, 0)
        raw = head[_HEAD.size : _HEAD.size + length]
        if magic != _MAGIC:
            raise ConfigError(f"{self._path} was not written by memserve: name another folder, or remove the file")
        try:
            if checksum != xxhash.xxh3_64_intdigest(raw):
                raise IdentityMismatch("its head is damaged")
            identity.check_same(msgspec.msgpack.decode(raw, type=KvIdentity), "the file")
        except (IdentityMismatch, msgspec.DecodeError) as error:
            _log.warning("what %s holds is given up: %s", self._path, error)
            return False
        return True

    @contextlib.contextmanager
    def _using(self, block_index: int) -> Iterator[None]:
        """The file stays open meanwhile. Raises InvalidBlocks when it is closed, or the index is no block's."""
        check_index(block_index, num_blocks=self.num_blocks)
        with self._unused:
            if not self._is_open:
                raise InvalidBlocks(f"block {block_index} cannot be reached: the pool is closed")
            self._num_using += 1
        try:
            yield
        finally:
            with self._unused:
                self._num_using -= 1
                self._unused.notify_all()

    def _at(self, block_index: int) -> int:
        return _PAGE + block_index * self._slot_bytes

    def _parse(self, block_index: int, header: bytes | bytearray) -> tuple[int, bytes] | None:
        """Checksum of the bytes, and the label; None when the header is blank, torn or of another slot."""
        if len(header) < self._header_bytes:
            return None
        own, number, checksum, length = _HEADER.unpack_from(header)
        end = _HEADER.size + length
        if number != block_index or end > len(header) or own != xxhash.xxh3_64_intdigest(header[8:end]):
            return None
        return checksum, bytes(header[_HEADER.size : end])

    def __repr__(self) -> str:
        state = "open" if self._is_open else "closed"
        return f"DiskStorage({self._path}, {self.num_blocks} x {self.block_bytes} bytes, {state})"


def _open_locked(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(
            f"cannot use {path} for the disk tier: {error.strerror}; name a folder that may be written"
        ) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise ConfigError(f"{path} is in use by another process: give each cluster a folder of its own") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ConfigError(f"{path} is not a regular file: name another folder")
    return fd


def _header(block_index: int, source: memoryview, label: bytes) -> bytes:
    fields = _HEADER.pack(0, block_index, xxhash.xxh3_64_intdigest(source), len(label))[8:] + label
    return xxhash.xxh3_64_intdigest(fields).to_bytes(8, "little") + fields


def _write_all(fd: int, data: memoryview, offset: int) -> None:
    while data:
        num_written = os.pwrite(fd, data, offset)
        data, offset = data[num_written:], offset + num_written

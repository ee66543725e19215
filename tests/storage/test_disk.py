"""The file of a disk tier: a block is read as it was written or it is not there, whatever happened to the process."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memserve.core.errors import ConfigError, InvalidBlocks, StorageFailed
from memserve.storage.disk import DiskStorage
from tests.storage.disks import LABEL_BYTES, PAGE, disk

BLOCK_BYTES = 3 * PAGE
NUM_BLOCKS = 4


def block(fill: int) -> memoryview:
    return memoryview(bytes([fill]) * BLOCK_BYTES)


def read(storage: DiskStorage, index: int) -> bytes:
    target = bytearray(BLOCK_BYTES)
    storage.read(index, memoryview(target))
    return bytes(target)


def opened(path: Path, **changes: object) -> DiskStorage:
    return disk(path, **{"num_blocks": NUM_BLOCKS, "block_bytes": BLOCK_BYTES, **changes})  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "a.kv"


@pytest.fixture
def storage(path: Path) -> Iterator[DiskStorage]:
    made = opened(path)
    yield made
    made.close()


def test_the_file_has_its_full_size_from_the_start_and_only_its_user_may_open_it(
    storage: DiskStorage, path: Path
) -> None:
    found = path.stat()
    assert found.st_size == PAGE + NUM_BLOCKS * (PAGE + BLOCK_BYTES)
    assert found.st_blocks * 512 >= found.st_size, "the disk could still be full when a block is written"
    assert found.st_mode & 0o777 == 0o600


def test_a_block_that_was_never_written_is_not_there(storage: DiskStorage) -> None:
    with pytest.raises(StorageFailed, match="not there whole"):
        read(storage, 1)


def test_blocks_and_their_labels_are_found_again_after_a_restart(storage: DiskStorage, path: Path) -> None:
    storage.write(2, block(2), label=b"two")
    storage.write(0, block(7))
    storage.close()
    again = opened(path)
    assert list(again.labels()) == [(2, b"two")]
    assert read(again, 2) == block(2)
    again.close()


def test_what_was_forgotten_is_erased_but_not_what_was_written_since(storage: DiskStorage) -> None:
    for index in range(3):
        storage.write(index, block(index), label=b"old")
    storage.forget([0, 1])
    storage.write(1, block(9), label=b"new")
    storage.erase()
    assert list(storage.labels()) == [(1, b"new"), (2, b"old")]
    assert read(storage, 1) == block(9)
    with pytest.raises(StorageFailed):
        read(storage, 0)


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, PAGE + BLOCK_BYTES - 1), data=st.data())
def test_a_flipped_byte_is_never_read_as_if_it_were_whole(
    tmp_path_factory: pytest.TempPathFactory, at: int, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("flip") / "a.kv"
    storage = opened(path)
    storage.write(1, block(5), label=b"five")
    with path.open("r+b") as file:
        file.seek(PAGE + 1 * (PAGE + BLOCK_BYTES) + at)
        was = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([data.draw(st.integers(0, 255).filter(lambda byte: byte != was))]))
    with contextlib.suppress(StorageFailed):
        assert read(storage, 1) == block(5), "bytes that nobody wrote"
    assert all(label == b"five" for _, label in storage.labels())
    storage.close()


def test_a_block_in_another_blocks_place_is_not_taken_for_it(storage: DiskStorage, path: Path) -> None:
    storage.write(0, block(1), label=b"one")
    slot_bytes = PAGE + BLOCK_BYTES
    with path.open("r+b") as file:
        file.seek(PAGE)
        content = file.read(slot_bytes)
        file.seek(PAGE + 2 * slot_bytes)
        file.write(content)
    with pytest.raises(StorageFailed, match="not there whole"):
        read(storage, 2)


def test_a_file_that_was_cut_off_gives_errors_not_bytes(storage: DiskStorage, path: Path) -> None:
    storage.write(3, block(3), label=b"three")
    os.truncate(path, path.stat().st_size - PAGE)
    with pytest.raises(StorageFailed):
        read(storage, 3)


def test_a_write_that_fails_leaves_no_block(storage: DiskStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write(1, block(1), label=b"one")
    write = os.pwrite

    def fails_in_the_middle(fd: int, data: bytes, offset: int) -> int:
        if len(data) == BLOCK_BYTES:
            return write(fd, data[:PAGE], offset)
        if len(data) > PAGE:
            raise OSError(28, "No space left on device")
        return write(fd, data, offset)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", fails_in_the_middle)
        with pytest.raises(StorageFailed, match="No space left"):
            storage.write(1, block(2), label=b"two")
    with pytest.raises(StorageFailed):
        read(storage, 1)
    assert list(storage.labels()) == []


def test_two_processes_cannot_use_one_file(storage: DiskStorage, path: Path) -> None:
    code = "from pathlib import Path; from tests.storage.disks import disk; import sys\n"
    code += f"disk(Path(sys.argv[1]), num_blocks={NUM_BLOCKS}, block_bytes={BLOCK_BYTES})"
    ended = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert "in use by another process" in ended.stderr


@pytest.mark.parametrize("change", [{"model": "another"}, {"dtype": "bf16"}, {"engine": "vllm-9"}, {"num_layers": 2}])
def test_blocks_of_another_model_are_given_up(
    storage: DiskStorage, path: Path, change: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    storage.write(0, block(1), label=b"one")
    storage.close()
    other = opened(path, **change)
    assert list(other.labels()) == []
    assert next(iter(change)) in caplog.text
    other.close()


def test_a_file_that_memserve_did_not_write_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"precious" * 1000)
    with pytest.raises(ConfigError, match="not written by memserve"):
        opened(path)
    assert path.read_bytes() == b"precious" * 1000


@pytest.mark.parametrize("num_blocks", [2, 6])
def test_another_size_keeps_the_blocks_that_still_have_a_place(
    storage: DiskStorage, path: Path, num_blocks: int
) -> None:
    for index in range(NUM_BLOCKS):
        storage.write(index, block(index), label=bytes([index]))
    storage.close()
    again = opened(path, num_blocks=num_blocks)
    kept = range(min(num_blocks, NUM_BLOCKS))
    assert list(again.labels()) == [(index, bytes([index])) for index in kept]
    assert all(read(again, index) == block(index) for index in kept)
    again.close()


def test_a_disk_without_room_is_a_config_error_with_the_numbers(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is to hold \d+ bytes, but its disk has \d+ bytes free"):
        opened(path, num_blocks=1 << 40)
    assert path.stat().st_size == 0


def test_a_folder_that_cannot_be_made_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="name a folder that may be written"):
        opened(tmp_path / "file" / "a.kv")


def test_room_for_no_block_is_a_config_error(path: Path) -> None:
    with pytest.raises(ConfigError, match=f"give at least {PAGE + PAGE + BLOCK_BYTES}"):
        opened(path, num_blocks=0)


def test_bytes_and_labels_of_the_wrong_length_are_refused(storage: DiskStorage) -> None:
    with pytest.raises(InvalidBlocks):
        storage.write(0, block(0)[1:])
    with pytest.raises(InvalidBlocks):
        storage.write(0, block(0), label=bytes(LABEL_BYTES + 1))


KILLED = f"""
import itertools, sys
from pathlib import Path
from tests.storage.disks import disk
storage = disk(Path(sys.argv[1]), num_blocks={NUM_BLOCKS}, block_bytes={BLOCK_BYTES})
for number in itertools.count():
    fill = number % 251
    storage.write(number % {NUM_BLOCKS}, memoryview(bytes([fill]) * {BLOCK_BYTES}), label=bytes([fill]))
    if number == {NUM_BLOCKS}:
        print("writing", flush=True)
"""


def test_a_process_that_is_killed_while_it_writes_leaves_whole_blocks_only(path: Path) -> None:
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.communicate()
        left = opened(path)
        found = list(left.labels())
        assert len(found) >= NUM_BLOCKS - 1, "one block at most was being written"
        for index, label in found:
            assert read(left, index) == bytes(label) * BLOCK_BYTES
        left.close()

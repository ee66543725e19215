"""What every Storage keeps, the shared one as its owner and as a peer sees it, the one on disk and one on a device."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from memserve.core.errors import ConfigError, InvalidBlocks
from memserve.core.ids import Incarnation, InstanceId
from memserve.engines.device.arena import DeviceArena
from memserve.storage.base import MappedStorage, Storage
from memserve.storage.private_memory import PrivateMemory
from memserve.storage.shared_memory import SharedMemory, attach
from tests.devices import DEVICES
from tests.storage.disks import disk

MAPPED = ("private", "shared", "attached")


@contextmanager
def mapped_storage(kind: str) -> Iterator[MappedStorage]:
    if kind == "private":
        made: MappedStorage = PrivateMemory(num_blocks=4, block_bytes=100)
        yield made
        made.close()
        return
    owner = SharedMemory(
        cluster="contract",
        instance=InstanceId("a"),
        incarnation=Incarnation(time.time_ns()),
        num_blocks=4,
        block_bytes=100,
    )
    made = owner if kind == "shared" else attach(owner.ref)
    yield made
    made.close()
    owner.close()


@pytest.fixture(params=MAPPED)
def mapped(request: pytest.FixtureRequest) -> Iterator[MappedStorage]:
    with mapped_storage(request.param) as made:
        yield made


@pytest.fixture(params=[*MAPPED, "disk", *DEVICES], ids=str)
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    if request.param == "disk":
        file = disk(tmp_path / "a.kv", num_blocks=4, block_bytes=100)
        yield file
        file.close()
        return
    if isinstance(request.param, torch.device):
        arena = DeviceArena(num_blocks=4, block_bytes=100, device=request.param)
        yield arena
        arena.close()
        return
    with mapped_storage(request.param) as made:
        yield made


def read(storage: Storage, index: int) -> bytes:
    target = bytearray(storage.block_bytes)
    storage.read(index, memoryview(target))
    return bytes(target)


def test_it_has_the_blocks_that_were_asked_for(storage: Storage) -> None:
    assert (storage.num_blocks, storage.block_bytes) == (4, 100)


def test_a_block_keeps_what_is_written_and_so_do_its_neighbours(storage: Storage) -> None:
    for index in range(4):
        storage.write(index, memoryview(bytes([index]) * 100))
    storage.write(1, memoryview(b"x" * 100))
    assert [read(storage, index) for index in range(4)] == [bytes(100), b"x" * 100, b"\2" * 100, b"\3" * 100]


@pytest.mark.parametrize("index", [-1, 4, 2**40])
def test_a_block_that_does_not_exist_is_neither_read_nor_written(storage: Storage, index: int) -> None:
    with pytest.raises(InvalidBlocks, match="0 to 3"):
        read(storage, index)
    with pytest.raises(InvalidBlocks, match="0 to 3"):
        storage.write(index, memoryview(bytes(100)))


def test_close_is_idempotent_and_ends_reads_and_writes(storage: Storage) -> None:
    storage.close()
    storage.close()
    with pytest.raises(InvalidBlocks, match="closed"):
        read(storage, 0)
    with pytest.raises(InvalidBlocks, match="closed"):
        storage.write(0, memoryview(bytes(100)))


def test_a_fresh_block_of_memory_is_zero(mapped: MappedStorage) -> None:
    assert bytes(mapped.view(3)) == bytes(100)


def test_a_view_is_what_is_read_and_outlives_its_storage(mapped: MappedStorage) -> None:
    view = mapped.view(1)
    view[:] = b"y" * 100
    assert read(mapped, 1) == b"y" * 100
    mapped.close()
    assert bytes(view) == b"y" * 100
    with pytest.raises(InvalidBlocks, match="closed"):
        mapped.view(1)


@pytest.mark.parametrize(("num_blocks", "block_bytes"), [(0, 1), (1, 0), (-1, 8)])
def test_a_tier_without_room_for_a_block_is_a_config_error(num_blocks: int, block_bytes: int) -> None:
    with pytest.raises(ConfigError, match="at least one block"):
        PrivateMemory(num_blocks=num_blocks, block_bytes=block_bytes)

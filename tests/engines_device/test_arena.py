"""A tier on a device, and the host memory that it locks: on the CPU here, on CUDA where there is a device."""

import mmap

import pytest
import torch

from memserve.core.errors import ConfigError, InvalidBlocks
from memserve.engines.device.arena import DeviceArena
from memserve.engines.device.pins import Pins
from memserve.storage.private_memory import PrivateMemory

BLOCK = 2 * mmap.PAGESIZE


class Driver:
    """Locks nothing and keeps book, or refuses."""

    def __init__(self) -> None:
        self.locked: dict[int, int] = {}
        self.refuses = False

    def lock(self, address: int, num_bytes: int) -> bool:
        assert all(address + num_bytes <= a or a + n <= address for a, n in self.locked.items()), "locked twice"
        if not self.refuses:
            self.locked[address] = num_bytes
        return not self.refuses

    def unlock(self, address: int) -> None:
        del self.locked[address]


def host(num_blocks: int = 4, block_bytes: int = BLOCK) -> PrivateMemory:
    memory = PrivateMemory(num_blocks=num_blocks, block_bytes=block_bytes)
    for index in range(num_blocks):
        memory.view(index)[:] = bytes([index + 1]) * block_bytes
    return memory


def test_blocks_go_to_the_device_and_come_back_many_at_a_time(device: torch.device) -> None:
    arena, memory = DeviceArena(num_blocks=5, block_bytes=BLOCK, device=device), host()
    arena.write_all([4, 0, 2], [memory.view(1), memory.view(3), memory.view(0)])
    assert [int(arena.block(index)[-1]) for index in range(5)] == [4, 0, 1, 0, 2]
    arena.read_all([2, 4], [memory.view(2), memory.view(3)])
    assert [bytes(memory.view(index)) for index in (2, 3)] == [b"\1" * BLOCK, b"\2" * BLOCK]
    arena.close()


def test_a_block_that_does_not_exist_is_refused_before_anything_is_copied(device: torch.device) -> None:
    arena, memory = DeviceArena(num_blocks=2, block_bytes=BLOCK, device=device), host()
    with pytest.raises(InvalidBlocks, match="block 2 does not exist"):
        arena.write_all([0, 2], [memory.view(0), memory.view(1)])
    assert not arena.block(0).any()
    arena.close()


def test_more_than_the_device_has_is_a_setting_to_change(device: torch.device) -> None:
    with pytest.raises(ConfigError, match="has no room for 1099511627776 blocks"):
        DeviceArena(num_blocks=2**40, block_bytes=2**20, device=device)


def test_host_memory_is_locked_at_its_first_use_once_and_until_the_arena_is_closed() -> None:
    driver, memory = Driver(), host()
    arena = DeviceArena(num_blocks=2, block_bytes=BLOCK, device=torch.device("cpu"), pins=Pins(driver))
    assert driver.locked == {}
    arena.read_all([0, 1], [memory.view(0), memory.view(1)])
    arena.write_all([1], [memory.view(0)])
    assert list(driver.locked.values()) == [BLOCK, BLOCK]
    arena.write(0, memory.view(3))  # anybody's memory, as far as the arena knows
    assert len(driver.locked) == 2
    arena.close()
    arena.close()
    assert driver.locked == {}


def test_locked_memory_stays_mapped_when_its_storage_is_closed() -> None:
    pins, memory = Pins(Driver()), host()
    assert pins.ensure(memory.view(0))
    mapped = memory.view(0)
    memory.close()
    assert pins.num_blocks == 1
    assert bytes(mapped[:1]) == b"\1"


@pytest.mark.parametrize("block_bytes", [mmap.PAGESIZE + 8, mmap.PAGESIZE // 2])
def test_blocks_that_share_pages_are_moved_without_being_locked(block_bytes: int) -> None:
    driver, memory = Driver(), host(block_bytes=block_bytes)
    pins = Pins(driver)
    arena = DeviceArena(num_blocks=2, block_bytes=block_bytes, device=torch.device("cpu"), pins=pins)
    arena.write_all([0], [memory.view(1)])
    assert driver.locked == {}
    assert int(arena.block(0)[0]) == 2
    arena.close()


def test_a_driver_that_refuses_costs_speed_only() -> None:
    driver, memory = Driver(), host()
    driver.refuses = True
    arena = DeviceArena(num_blocks=2, block_bytes=BLOCK, device=torch.device("cpu"), pins=Pins(driver))
    arena.write_all([1], [memory.view(2)])
    assert int(arena.block(1)[0]) == 3
    arena.close()

"""MemPool with its HBM tier on a device: swapped, read and written as any other, and not resized."""

import mmap
from collections.abc import Iterator

import pytest
import torch

from memserve import MemPool
from memserve.core.enums import Tier
from memserve.core.errors import ConfigError, InvalidBlocks
from memserve.core.ids import block_tier
from memserve.engines.device.arena import DeviceArena

BLOCK = mmap.PAGESIZE
TOKENS = list(range(4 * 3))
BYTES = b"".join(bytes([n]) * BLOCK for n in (1, 2, 3))


@pytest.fixture
def pool(device: torch.device) -> Iterator[MemPool]:
    arena = DeviceArena(num_blocks=3, block_bytes=BLOCK, device=device)
    with MemPool(
        instance="on-device", cluster="device", block_size=4, block_bytes=BLOCK, dram_bytes=3 * BLOCK, hbm=arena
    ) as made:
        yield made


def filled(pool: MemPool) -> None:
    blocks = pool.alloc_mem(3, tier=Tier.HBM)
    pool.write(blocks, BYTES)
    pool.insert(TOKENS, blocks)


def where(pool: MemPool) -> tuple[list[Tier], bytes]:
    with pool.match(TOKENS) as found:
        return [block_tier(block) for block in found.addresses.blocks], pool.read(found.addresses)


def test_blocks_are_swapped_out_of_the_device_and_in_again(pool: MemPool) -> None:
    filled(pool)
    assert where(pool) == ([Tier.HBM] * 3, BYTES)
    assert pool.swap_out(3) == 3
    assert where(pool) == ([Tier.DRAM] * 3, BYTES)
    with pool.match(TOKENS) as found:
        addresses = found.addresses
    pool.swap_in(addresses)
    assert where(pool) == ([Tier.HBM] * 3, BYTES)
    pool.local.check()


def test_the_host_memory_that_a_device_uses_keeps_its_size(pool: MemPool) -> None:
    with pytest.raises(ConfigError, match="DRAM tier cannot change its size: DeviceArena"):
        pool.resize(BLOCK)


def test_a_block_on_a_device_has_no_view(pool: MemPool) -> None:
    filled(pool)
    with pool.match(TOKENS) as found, pytest.raises(InvalidBlocks, match="cannot be mapped"):
        pool.view(found.addresses.blocks[0])


def test_memory_for_other_blocks_is_refused() -> None:
    arena = DeviceArena(num_blocks=1, block_bytes=BLOCK, device=torch.device("cpu"))
    for more in ({"block_bytes": 2 * BLOCK}, {"block_bytes": BLOCK, "hbm_bytes": BLOCK}):
        with pytest.raises(ConfigError, match="give one of the two, with blocks of that size"):
            MemPool(instance="other", block_size=4, dram_bytes=2 * BLOCK, hbm=arena, **more)

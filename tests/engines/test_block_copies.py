"""Copies staged on a stream of their own leave the same bytes as direct ones; on CUDA where there is a device."""

import pytest
import torch
from vllm.v1.kv_cache_layout import KVCacheLayout

from memserve.engines.vllm.block_copies import DeviceCopies, HostCopies, block_copies
from memserve.engines.vllm.layout import EngineMemory
from tests.devices import DEVICES
from tests.engines.paged import paged_memory

BLOCKS = [5, 0, 3]


@pytest.fixture(params=DEVICES, ids=str)
def device(request: pytest.FixtureRequest) -> torch.device:
    return request.param


@pytest.fixture(params=[KVCacheLayout.LBHNC, KVCacheLayout.LBNHC, KVCacheLayout.BHLNC], ids=lambda value: value.name)
def memory(request: pytest.FixtureRequest, device: torch.device) -> EngineMemory:
    """The second rank of two."""
    return paged_memory(rank=1, num_ranks=2, layout=request.param, device=device)


def staged(memory: EngineMemory) -> DeviceCopies:
    """Two blocks at a time, so that three take two rounds."""
    return DeviceCopies(memory, staging_bytes=2 * memory.pages[0][:, 0].numel())


def blocks_of(memory: EngineMemory, fill: int = 0) -> torch.Tensor:
    return torch.full((len(BLOCKS), memory.layout.block_bytes), fill, dtype=torch.uint8)


def test_whole_blocks_are_written_out_alike_and_other_ranks_heads_left_alone(memory: EngineMemory) -> None:
    copies, found, expected = staged(memory), blocks_of(memory, 7), blocks_of(memory, 7)
    copies.write_out(copies.mark(), BLOCKS, tuple(found))
    HostCopies(memory).write_out(None, BLOCKS, tuple(expected))
    assert torch.equal(found, expected)


def test_single_layers_are_written_out_alike(memory: EngineMemory) -> None:
    copies, found, expected = staged(memory), blocks_of(memory, 7), blocks_of(memory, 7)
    pages = torch.zeros(len(BLOCKS), memory.page_bytes, dtype=torch.uint8)
    for layer in memory.layers[1:]:
        copies.write_out_layer(copies.mark(), layer, BLOCKS, tuple(found))
        HostCopies(memory).write_out_layer(None, layer, BLOCKS, tuple(expected))
        copies.write_out_page(copies.mark(), layer, BLOCKS, tuple(pages))
        start = memory.page_offset(layer)
        assert torch.equal(pages, expected[:, start : start + memory.page_bytes])
    assert torch.equal(found, expected)


def test_what_was_written_out_is_read_in_again_and_nothing_else_is_touched(memory: EngineMemory) -> None:
    copies, saved = staged(memory), blocks_of(memory)
    before = [pages.clone() for pages in memory.pages]
    copies.write_out(copies.mark(), BLOCKS, tuple(saved))
    for pages in memory.pages:
        pages[:, BLOCKS] = 0
    copies.read_in(copies.mark(), BLOCKS, tuple(saved))
    assert all(torch.equal(pages, old) for pages, old in zip(memory.pages, before, strict=True))


def test_kv_in_host_memory_is_copied_directly() -> None:
    assert isinstance(block_copies(paged_memory()), HostCopies)


@pytest.mark.parametrize("device", DEVICES[1:])
def test_a_copy_waits_for_what_the_engine_had_ordered_before_the_mark(device: torch.device) -> None:
    memory = paged_memory(device=device)
    copies, found = DeviceCopies(memory), blocks_of(memory)
    torch.cuda._sleep(100_000_000)
    for pages in memory.pages:
        pages.fill_(9)
    copies.write_out(copies.mark(), BLOCKS, tuple(found))
    assert set(found.flatten().tolist()) == {9}

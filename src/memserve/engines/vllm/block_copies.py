"""Copies between engine blocks and host memory, in step with what the engine has ordered on its device.

    vLLM's thread:    ... forward n ...  mark ...  forward n + 1 ...
    copier's thread:                     after the mark: gather -> staging on the device -> staging on the host -> arena
                                         (loads the other way round)

On the CPU what the engine has computed is there, and every copy is one step. On another device, copies run
on a stream of their own beside the forward, wait there for the mark, and are through when their call returns.
Not thread-safe, but for `mark`: one object a copying thread.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch

from memserve.engines.device.paged_copy import paged_copy
from memserve.engines.device.side_stream import Mark, SideStream
from memserve.engines.vllm.layout import EngineMemory

STAGING_BYTES = 32 << 20
"""On the device and, page-locked, on the host; made at the first copy. Or one block, when that is longer."""


class BlockCopies(Protocol):
    """`targets` and `sources` are uint8 in host memory, one for each block. All calls block until done."""

    def mark(self) -> Mark:
        """All that the calling thread's stream has been given so far."""
        ...

    def write_out(self, mark: Mark, blocks: Sequence[int], targets: Sequence[torch.Tensor]) -> None:
        """This rank's heads of all layers into whole pool blocks."""
        ...

    def write_out_layer(self, mark: Mark, layer: str, blocks: Sequence[int], targets: Sequence[torch.Tensor]) -> None:
        """This rank's heads of one layer into their place in whole pool blocks."""
        ...

    def write_out_page(self, mark: Mark, layer: str, blocks: Sequence[int], targets: Sequence[torch.Tensor]) -> None:
        """This rank's heads of one layer into memory for just these."""
        ...

    def read_in(self, mark: Mark, blocks: Sequence[int], sources: Sequence[torch.Tensor]) -> None:
        """This rank's heads of all layers out of whole pool blocks."""
        ...


def block_copies(memory: EngineMemory) -> BlockCopies:
    """For the device that holds the engine's KV."""
    return HostCopies(memory) if memory.device.type == "cpu" else DeviceCopies(memory)


class HostCopies:
    """Where the engine's KV is in host memory."""

    def __init__(self, memory: EngineMemory) -> None:
        self._memory = memory

    def mark(self) -> Mark:
        return None

    def write_out(self, mark: Mark, blocks: Sequence[int], targets: Sequence[torch.Tensor]) -> None:
        for block, target in zip(blocks, targets, strict=True):
            self._memory.write_out(block, target)

    def write_out_layer(self, mark: Mark, layer: str, blocks: Sequence[int], targets: Sequence[torch.Tensor]) -> None:
        for block, target in zip(blocks, targets, strict=True):
            self._memory.write_out_layer(layer, block, target)

    def write_out_page(self, mark: Mark, layer: str, blocks: Sequence[int], targets: Sequence[torch.Tensor]) -> None:
        for block, target in zip(blocks, targets, strict=True):
            self._memory.write_out_page(layer, block, target)

    def read_in(self, mark: Mark, blocks: Sequence[int], sources: Sequence[torch.Tensor]) -> None:
        for block, source in zip(blocks, sources, strict=True):
            self._memory.read_in(block, source)


class DeviceCopies:
    """On a stream of its own, many blocks in one launch and one transfer."""

    def __init__(self, memory: EngineMemory, *, staging_bytes: int = STAGING_BYTES) -> None:
        self._memory = memory
        self._staging_bytes = staging_bytes
        self._device = memory.device
        self._stream = SideStream(self._device)
        self._copy = paged_copy(self._device)
        self._on_device = torch.empty(0, dtype=torch.uint8)
        self._on_host = torch.empty(0, dtype=torch.uint8)

    def mark(self) -> Mark:
        return self._stream.mark()

    def write_out(self, mark: Mark, blocks: Sequence[int], targets: Sequence[torch.Tensor]) -> None:
        for number, pages in enumerate(self._memory.pages):
            place = self._memory.layers_of(number)
            for target, staged in self._gathered(mark, pages, blocks, targets):
                part = self._memory.part(target, place)
                part.copy_(staged.view(part.shape))

    def write_out_layer(self, mark: Mark, layer: str, blocks: Sequence[int], targets: Sequence[torch.Tensor]) -> None:
        place = self._memory.layer_number(layer)
        for target, staged in self._gathered(mark, self._memory.pages_of(layer), blocks, targets):
            part = self._memory.part(target, range(place, place + 1))
            part.copy_(staged.view(part.shape))

    def write_out_page(self, mark: Mark, layer: str, blocks: Sequence[int], targets: Sequence[torch.Tensor]) -> None:
        for target, staged in self._gathered(mark, self._memory.pages_of(layer), blocks, targets):
            target.copy_(staged)

    def read_in(self, mark: Mark, blocks: Sequence[int], sources: Sequence[torch.Tensor]) -> None:
        for number, pages in enumerate(self._memory.pages):
            place = self._memory.layers_of(number)
            for some, host, device in self._batches(pages, blocks):
                for staged, source in zip(host, sources[some.start : some.stop], strict=True):
                    part = self._memory.part(source, place)
                    staged.view(part.shape).copy_(part)
                with self._stream.after(mark):
                    device.copy_(host, non_blocking=True)
                    self._copy.scatter(pages, self._numbers(blocks, some), device)

    def _gathered(
        self, mark: Mark, pages: torch.Tensor, blocks: Sequence[int], targets: Sequence[torch.Tensor]
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Each target with its block's bytes of these pages, good until the next is asked for."""
        for some, host, device in self._batches(pages, blocks):
            with self._stream.after(mark):
                self._copy.gather(pages, self._numbers(blocks, some), device)
                host.copy_(device, non_blocking=True)
            yield from zip(targets[some.start : some.stop], host, strict=True)

    def _batches(
        self, pages: torch.Tensor, blocks: Sequence[int]
    ) -> Iterator[tuple[range, torch.Tensor, torch.Tensor]]:
        """As many blocks at a time as are staged, with their rows on the host and on the device."""
        row = pages[:, 0].numel()
        at_once = max(1, self._staging_bytes // row)
        for first in range(0, len(blocks), at_once):
            some = range(first, min(first + at_once, len(blocks)))
            size = len(some) * row
            self._make_room(size)
            yield some, self._on_host[:size].view(len(some), row), self._on_device[:size].view(len(some), row)

    def _make_room(self, num_bytes: int) -> None:
        if len(self._on_host) < num_bytes:
            size = max(num_bytes, self._staging_bytes)
            is_locked = self._device.type != "cpu"
            self._on_host = torch.empty(size, dtype=torch.uint8, pin_memory=is_locked)
            self._on_device = self._stream.empty(size)

    def _numbers(self, blocks: Sequence[int], some: range) -> torch.Tensor:
        return torch.tensor(blocks[some.start : some.stop], dtype=torch.int64).to(self._device)

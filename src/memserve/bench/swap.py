"""`memserve bench swap`: KV moved between a device and host memory, aggregated and discrete, beside a pinned copy.

All in one process, in turn, on one device. `limit` is one copy of the same bytes between contiguous memory on
both sides, page-locked on CUDA. On the CPU everything runs and checks itself, and says nothing about a GPU.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
import numpy as np
import torch

from memserve import MemPool, __version__
from memserve.bench.child import Say
from memserve.bench.records import Report, Row, make_report, timed_row
from memserve.core.enums import Tier
from memserve.core.errors import ConfigError, InvariantError
from memserve.engines.device.arena import DeviceArena
from memserve.engines.device.paged_copy import paged_copy
from memserve.wire.messages import BlockList

_BLOCK_SIZE = 16
_WARM_UP = 3
Task = Callable[[], object]


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """KV of one rank: `num_layers` times K and V, each in a piece of `piece_bytes` for a block of 16 tokens."""

    name: str
    num_layers: int
    piece_bytes: int

    @property
    def block_bytes(self) -> int:
        return 2 * self.num_layers * self.piece_bytes


SHAPES = (
    Shape(name="llama-2-13b tp2", num_layers=40, piece_bytes=80 << 10),
    Shape(name="llama-3-8b tp1", num_layers=32, piece_bytes=32 << 10),
    Shape(name="llama-3-8b tp8", num_layers=32, piece_bytes=4 << 10),
)
"""In 16 bits; the first one is the paper's."""


class SwapPlan(msgspec.Struct, frozen=True, kw_only=True):
    """How much to measure."""

    device: str = "cuda"
    num_blocks: int = 64
    """In each call."""
    num_rounds: int = 30


def run_swap(*, plan: SwapPlan, say: Say) -> Report:
    """Measure all. Raises ConfigError when the device is not there."""
    if plan.device != "cpu" and not (plan.device == "cuda" and torch.cuda.is_available()):
        raise ConfigError(f'there is no device "{plan.device}" here that torch could use: --device cpu runs anywhere')
    device = torch.device(plan.device)
    rows: list[Row] = []
    for shape in SHAPES:
        say(f"{plan.num_blocks} blocks of {shape.name}, {shape.block_bytes >> 10} KiB each")
        rows += _measure(shape, plan, device)
    return make_report("swap", results=rows, missing=())


def _measure(shape: Shape, plan: SwapPlan, device: torch.device) -> list[Row]:
    times: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    with _pool(shape, plan, device) as swap:
        tasks = {**_limit(shape, plan, device), **_paged(shape, plan, device), **swap}
        for number in range(_WARM_UP + plan.num_rounds):
            for name, task in tasks.items():
                begin = time.perf_counter_ns()
                task()
                if number >= _WARM_UP:
                    times[name].append(time.perf_counter_ns() - begin)
    return [_row(name, spent, shape, plan) for name, spent in times.items()]


def _row(name: tuple[str, str, str], times: list[int], shape: Shape, plan: SwapPlan) -> Row:
    system, operation, layout = name
    version = __version__ if system == "memserve" else str(torch.__version__)
    row = Row(
        system=system,
        version=version,
        operation=operation,
        path=plan.device,
        input=layout,
        blocks=plan.num_blocks,
        size_bytes=shape.block_bytes,
    )
    return timed_row(times, row, num_bytes=plan.num_blocks * shape.block_bytes)


def _limit(shape: Shape, plan: SwapPlan, device: torch.device) -> dict[tuple[str, str, str], Task]:
    """One copy of everything."""
    there = torch.zeros(plan.num_blocks * shape.block_bytes, dtype=torch.uint8, device=device)
    here = _host(there.numel(), device)

    def out() -> None:
        here.copy_(there, non_blocking=True)
        _wait(device)

    def into() -> None:
        there.copy_(here, non_blocking=True)
        _wait(device)

    return {("limit", "swap_out", "one copy"): out, ("limit", "swap_in", "one copy"): into}


def _paged(shape: Shape, plan: SwapPlan, device: torch.device) -> dict[tuple[str, str, str], Task]:
    """Between an engine's paged tensors and blocks in host memory: gathered first, or a copy for each piece."""
    num_pages = 2 * plan.num_blocks
    pages = torch.randint(
        0, 256, (2 * shape.num_layers, num_pages, 1, 1, 1, shape.piece_bytes), dtype=torch.uint8, device=device
    )
    numbers = torch.arange(1, num_pages, 2)
    blocks = numbers.to(device)
    staging = torch.zeros(plan.num_blocks, shape.block_bytes, dtype=torch.uint8, device=device)
    host = _host(staging.numel(), device).view_as(staging)
    copy = paged_copy(device)
    pieces = [
        (pages[layer, number, 0, 0, 0], host[row, layer * shape.piece_bytes : (layer + 1) * shape.piece_bytes])
        for row, number in enumerate(numbers.tolist())
        for layer in range(2 * shape.num_layers)
    ]

    def gathered_out() -> None:
        copy.gather(pages, blocks, staging)
        host.copy_(staging, non_blocking=True)
        _wait(device)

    def gathered_in() -> None:
        staging.copy_(host, non_blocking=True)
        copy.scatter(pages, blocks, staging)
        _wait(device)

    def discrete_out() -> None:
        for page, piece in pieces:
            piece.copy_(page, non_blocking=True)
        _wait(device)

    def discrete_in() -> None:
        for page, piece in pieces:
            page.copy_(piece, non_blocking=True)
        _wait(device)

    _check_same(gathered_out, discrete_out, host)
    return {
        ("memserve", "swap_out", "paged, gathered"): gathered_out,
        ("memserve", "swap_in", "paged, scattered"): gathered_in,
        ("discrete", "swap_out", "paged, a copy for each piece"): discrete_out,
        ("discrete", "swap_in", "paged, a copy for each piece"): discrete_in,
    }


def _check_same(one: Task, other: Task, host: torch.Tensor) -> None:
    one()
    first = host.clone()
    host.zero_()
    other()
    if not torch.equal(host, first):
        raise InvariantError("gathered and discrete copies brought different bytes: a bug in memserve")


@contextmanager
def _pool(shape: Shape, plan: SwapPlan, device: torch.device) -> Iterator[dict[tuple[str, str, str], Task]]:
    """MemPool's own calls, on a pool whose HBM tier is on the device."""
    arena = DeviceArena(num_blocks=plan.num_blocks, block_bytes=shape.block_bytes, device=device)
    size = plan.num_blocks * shape.block_bytes
    with MemPool(
        instance="bench-swap", block_size=_BLOCK_SIZE, block_bytes=shape.block_bytes, dram_bytes=size, hbm=arena
    ) as pool:
        tokens = np.arange(plan.num_blocks * _BLOCK_SIZE, dtype=np.int32)
        pool.insert(tokens, pool.alloc_mem(plan.num_blocks, tier=Tier.HBM))

        def swap_in() -> BlockList:
            with pool.match(tokens) as found:
                addresses = found.addresses
            return pool.swap_in(addresses)

        yield {
            ("memserve", "swap_out", "aggregated, MemPool"): lambda: pool.swap_out(plan.num_blocks),
            ("memserve", "swap_in", "aggregated, MemPool"): swap_in,
        }


def _host(num_bytes: int, device: torch.device) -> torch.Tensor:
    return torch.zeros(num_bytes, dtype=torch.uint8, pin_memory=device.type != "cpu")


def _wait(device: torch.device) -> None:
    torch.get_device_module(device).synchronize()

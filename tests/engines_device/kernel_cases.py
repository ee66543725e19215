"""The kernel against torch: the same bytes for every shape, odd ones included, and not one byte beside them.

Run by test_paged_copy.py in a process of its own: Triton decides at its import whether kernels are interpreted.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memserve.engines.device.paged_copy import TorchCopy
from memserve.engines.device.triton_copy import TritonCopy

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

ORDERS = {
    "layers, blocks, heads, tokens": (0, 1, 2, 3, 4),
    "layers, blocks, tokens, heads": (0, 1, 4, 2, 3),
    "blocks, heads, layers, tokens": (2, 0, 1, 3, 4),
    "blocks, layers, heads, tokens": (1, 0, 2, 3, 4),
}
"""Where layers, blocks, heads, runs and tokens come in memory; the bytes of a token are always innermost."""


def make_pages(sizes: tuple[int, int, int, int, int, int], order: tuple[int, ...], *, gap: int) -> torch.Tensor:
    """[layers, blocks, heads, runs, tokens, bytes] in that order in memory, beginning `gap` bytes into its storage."""
    in_memory = [0] * 5
    for axis, place in enumerate(order):
        in_memory[place] = axis
    strides, stride = [0] * 5 + [1], sizes[5]
    for axis in reversed(in_memory):
        strides[axis] = stride
        stride *= sizes[axis]
    raw = torch.randint(0, 256, (stride + gap + 3,), dtype=torch.uint8).to(DEVICE)
    return raw.as_strided(sizes, strides, gap)


def storage_of(pages: torch.Tensor) -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8, device=pages.device).set_(pages.untyped_storage()).clone()


SHAPES = st.tuples(
    st.integers(1, 3), st.integers(1, 5), st.integers(1, 3), st.integers(1, 2), st.integers(1, 9), st.integers(1, 80)
)


def check(pages: torch.Tensor, blocks: torch.Tensor) -> None:
    kernel = TritonCopy()
    size = pages[:, 0].numel()
    expected, found = (torch.zeros(len(blocks), size, dtype=torch.uint8, device=pages.device) for _ in range(2))
    TorchCopy().gather(pages, blocks, expected)
    kernel.gather(pages, blocks, found)
    assert torch.equal(found, expected)
    source = torch.randint(0, 256, found.shape, dtype=torch.uint8).to(pages.device)
    before = storage_of(pages)
    TorchCopy().scatter(pages, blocks, source)
    wanted = storage_of(pages)
    torch.empty(0, dtype=torch.uint8, device=pages.device).set_(pages.untyped_storage()).copy_(before)
    kernel.scatter(pages, blocks, source)
    assert torch.equal(storage_of(pages), wanted)


@settings(max_examples=40)
@given(shape=SHAPES, order=st.sampled_from(sorted(ORDERS)), gap=st.sampled_from([0, 1, 2, 4, 8]), data=st.data())
def test_the_kernel_moves_the_same_bytes_as_torch(
    *, shape: tuple[int, int, int, int, int, int], order: str, gap: int, data: st.DataObject
) -> None:
    pages = make_pages(shape, ORDERS[order], gap=gap)
    blocks = data.draw(st.permutations(range(shape[1])))[: data.draw(st.integers(0, shape[1]))]
    check(pages, torch.tensor(blocks, dtype=torch.int64, device=DEVICE))


@pytest.mark.parametrize("token_bytes", [8, 12, 14, 31, 256])
def test_blocks_longer_than_one_tile_are_moved_whole(token_bytes: int) -> None:
    pages = make_pages((3, 4, 2, 1, 33, token_bytes), ORDERS["layers, blocks, tokens, heads"], gap=0)
    check(pages, torch.tensor([3, 0], device=DEVICE))

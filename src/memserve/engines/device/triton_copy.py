"""Gather and scatter of paged KV as one Triton kernel; the shapes are those of paged_copy.py.

A program moves `_TILE` neighbouring words of one block's contiguous form. Where a word lies in the pages follows from
its number, by the shape of what is inside a block, whose neighbouring axes are merged first where they lie
without a gap. A word is as wide as strides, addresses and sizes allow, up to 8 bytes.
"""

import torch
import triton
import triton.language as tl

_TILE = 1024
_MAX_AXES = 5
_WORDS = ((8, torch.int64), (4, torch.int32), (2, torch.int16), (1, torch.uint8))


@triton.jit  # type: ignore[untyped-decorator]
def move_words(  # type: ignore[no-untyped-def]  # noqa: PLR0917 - a kernel takes no structures
    pages,
    blocks,
    contiguous,
    num_words,
    block_stride,
    size_1, size_2, size_3, size_4,
    stride_0, stride_1, stride_2, stride_3, stride_4,
    scatter: tl.constexpr,
    tile: tl.constexpr,
):  # fmt: skip
    """Sizes of the axes inside a block but the outermost, and the strides of all, in words."""
    number = tl.program_id(0).to(tl.int64)
    words = tl.program_id(1).to(tl.int64) * tile + tl.arange(0, tile)
    is_inside = words < num_words
    rest = words // size_4
    place = (words % size_4) * stride_4
    place += (rest % size_3) * stride_3
    rest = rest // size_3
    place += (rest % size_2) * stride_2
    rest = rest // size_2
    place += (rest % size_1) * stride_1 + (rest // size_1) * stride_0
    place += tl.load(blocks + number) * block_stride
    inner = number * num_words + words
    if scatter:
        tl.store(pages + place, tl.load(contiguous + inner, mask=is_inside), mask=is_inside)
    else:
        tl.store(contiguous + inner, tl.load(pages + place, mask=is_inside), mask=is_inside)


class TritonCopy:
    """A PagedCopy."""

    def gather(self, pages: torch.Tensor, blocks: torch.Tensor, out: torch.Tensor) -> None:
        _launch(pages, blocks, out, scatter=False)

    def scatter(self, pages: torch.Tensor, blocks: torch.Tensor, source: torch.Tensor) -> None:
        _launch(pages, blocks, source, scatter=True)


def _launch(pages: torch.Tensor, blocks: torch.Tensor, contiguous: torch.Tensor, *, scatter: bool) -> None:
    if not len(blocks):
        return
    width, dtype = _word(pages, contiguous)
    axes = merged_axes(
        [pages.shape[0], *pages.shape[2:-1], pages.shape[-1] // width],
        [pages.stride(0) // width, *(stride // width for stride in pages.stride()[2:-1]), 1],
    )
    axes = [(1, 0)] * (_MAX_AXES - len(axes)) + axes
    num_words = contiguous.shape[1] // width
    grid = (len(blocks), triton.cdiv(num_words, _TILE))
    sizes, strides = zip(*axes, strict=True)
    move_words[grid](
        _as_words(pages, width, dtype),
        blocks,
        contiguous.view(dtype),
        num_words,
        pages.stride(1) // width,
        *sizes[1:],
        *strides,
        scatter=scatter,
        tile=_TILE,
    )


def merged_axes(sizes: list[int], strides: list[int]) -> list[tuple[int, int]]:
    """(size, stride) of the fewest axes that run through the same places in the same order."""
    axes: list[tuple[int, int]] = []
    for size, stride in zip(sizes, strides, strict=True):
        if size == 1:
            continue
        if axes and axes[-1][1] == size * stride:
            axes[-1] = axes[-1][0] * size, stride
        else:
            axes.append((size, stride))
    return axes or [(1, 1)]


def _word(pages: torch.Tensor, contiguous: torch.Tensor) -> tuple[int, torch.dtype]:
    """The widest word that divides every stride, size and address."""
    places = (pages.data_ptr(), contiguous.data_ptr(), contiguous.shape[1], pages.shape[-1], *pages.stride()[:-1])
    return next((width, dtype) for width, dtype in _WORDS if all(place % width == 0 for place in places))


def _as_words(pages: torch.Tensor, width: int, dtype: torch.dtype) -> torch.Tensor:
    """One word at the address of the first page: the kernel needs no more than that."""
    first = torch.empty(0, dtype=dtype, device=pages.device)
    return first.set_(pages.untyped_storage(), pages.storage_offset() // width, (1,), (1,))

"""Blocks of an engine's paged KV gathered into contiguous ones, and scattered back: one launch for all of them.

    pages       [layers, blocks, heads, runs, tokens, bytes], uint8, strided in any way, bytes contiguous
    contiguous  [n, layers x heads x runs x tokens x bytes], uint8: block after block, each in that order

On CUDA both directions are one Triton kernel (triton_copy.py); elsewhere, and where Triton is not installed, torch
does it. Runs on the current stream and does not wait for it.
"""

import importlib.util
from typing import Protocol

import torch


class PagedCopy(Protocol):
    """Both directions. `blocks` are int64 on the pages' device, none of them twice when scattering."""

    def gather(self, pages: torch.Tensor, blocks: torch.Tensor, out: torch.Tensor) -> None:
        """Fill `out`, [n, bytes of a block]."""
        ...

    def scatter(self, pages: torch.Tensor, blocks: torch.Tensor, source: torch.Tensor) -> None:
        """Replace the pages of `blocks` by `source`, [n, bytes of a block]."""
        ...


class TorchCopy:
    """With torch's own copies, one a block; what the kernel is checked against."""

    def gather(self, pages: torch.Tensor, blocks: torch.Tensor, out: torch.Tensor) -> None:
        for block, contiguous in zip(blocks.tolist(), _by_block(pages, out), strict=True):
            contiguous.copy_(pages[:, block])

    def scatter(self, pages: torch.Tensor, blocks: torch.Tensor, source: torch.Tensor) -> None:
        for block, contiguous in zip(blocks.tolist(), _by_block(pages, source), strict=True):
            pages[:, block].copy_(contiguous)


def _by_block(pages: torch.Tensor, contiguous: torch.Tensor) -> torch.Tensor:
    """Each contiguous block in the shape of its pages."""
    layers, _, *inside = pages.shape
    return contiguous.view(contiguous.shape[0], layers, *inside)


def paged_copy(device: torch.device) -> PagedCopy:
    """What is fastest there."""
    if device.type == "cuda" and importlib.util.find_spec("triton") is not None:
        from memserve.engines.device.triton_copy import TritonCopy  # noqa: PLC0415 - only where there is a GPU

        return TritonCopy()
    return TorchCopy()

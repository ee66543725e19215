"""Gather and scatter: torch's way here, the kernel's in a process of its own."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from memserve.engines.device.paged_copy import TorchCopy, paged_copy

CASES = Path(__file__).parent / "kernel_cases.py"


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_the_kernel_agrees_with_torch_interpreted_or_on_a_gpu() -> None:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    if not torch.cuda.is_available():
        env["TRITON_INTERPRET"] = "1"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CASES)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "passed" in done.stdout


COMPILE = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from memserve.engines.device.triton_copy import move_words

for word in ("i64", "i32", "i16", "u8"):
    pointers = {"pages": f"*{word}", "blocks": "*i64", "contiguous": f"*{word}"}
    constants = {"scatter": True, "tile": 1024}
    types = {name: "i32" for name in move_words.arg_names} | pointers | {name: "constexpr" for name in constants}
    made = compile(ASTSource(move_words, signature=types, constexprs=constants), target=GPUTarget("cuda", 90, 32))
    print(word, len(made.asm["cubin"]) > 0)
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_the_kernel_compiles_for_a_gpu_that_is_not_here(tmp_path: Path) -> None:
    env = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", COMPILE], env=env, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["i64", "True", "i32", "True", "i16", "True", "u8", "True"], done.stderr[-3000:]


@pytest.mark.parametrize("strides", [(640, 64, 8), (64, 192, 8)], ids=["layers first", "blocks first"])
def test_what_is_gathered_scatters_back(device: torch.device, strides: tuple[int, int, int]) -> None:
    raw = torch.arange(1920, device=device).remainder(251).to(torch.uint8)
    pages = raw.as_strided((3, 10, 8, 1, 1, 8), (strides[0], strides[1], strides[2], 8, 8, 1))
    blocks = torch.tensor([7, 2], device=device)
    out = torch.zeros(2, 192, dtype=torch.uint8, device=device)
    copy = paged_copy(device)
    copy.gather(pages, blocks, out)
    assert torch.equal(out.view(2, 3, 64), pages[:, blocks].flatten(2).transpose(0, 1))
    copy.scatter(pages, torch.tensor([1, 0], device=device), out)
    assert torch.equal(pages[:, 1], pages[:, 7])
    assert torch.equal(pages[:, 0], pages[:, 2])


def test_without_a_gpu_torch_does_it() -> None:
    assert isinstance(paged_copy(torch.device("cpu")), TorchCopy)

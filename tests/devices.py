"""Devices of torch that a test runs on: the CPU anywhere, CUDA where there is one (`pytest -m gpu`)."""

import pytest
import torch

ON_CUDA = (
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
)
DEVICES = (torch.device("cpu"), pytest.param(torch.device("cuda"), marks=ON_CUDA))

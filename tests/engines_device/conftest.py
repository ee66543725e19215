"""Devices that storage on a device is tested on."""

import pytest
import torch

from tests.devices import DEVICES


@pytest.fixture(params=DEVICES, ids=str)
def device(request: pytest.FixtureRequest) -> torch.device:
    return request.param

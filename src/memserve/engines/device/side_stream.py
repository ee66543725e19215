"""A stream beside the one that a device computes on: copies that begin after a point of it and end within the call.

On the CPU, where work is done when a call returns, all of this does nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

Mark = Any
"""A point in the work of the stream that a thread had in use."""


class SideStream:
    """Of one device; owns the stream. One thread at a time, but for `mark`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._module = torch.get_device_module(device)
        self._stream = self._module.Stream() if device.type == "cpu" else self._module.Stream(device=device)

    def mark(self) -> Mark:
        """All that the calling thread's own stream has been given so far."""
        event = self._module.Event()
        event.record(self._module.current_stream(self._device))
        return event

    def empty(self, num_bytes: int) -> torch.Tensor:
        """Memory on the device for this stream alone: torch may reuse there what another stream is not done with."""
        with self._module.stream(self._stream):
            return torch.empty(num_bytes, dtype=torch.uint8, device=self._device)

    @contextmanager
    def after(self, mark: Mark) -> Iterator[None]:
        """What is ordered inside begins after the mark, and is done when the `with` block ends, also by an error."""
        with self._module.stream(self._stream):
            self._stream.wait_event(mark)
            try:
                yield
            finally:
                done = self._module.Event()
                done.record(self._stream)
                done.synchronize()

    def __repr__(self) -> str:
        return f"SideStream({self._device})"

"""Host memory that a device reads and writes by itself: blocks are page-locked when they are first used.

Locking all of a pool at its start would take a second for every few gigabytes; so each block is locked at its first
move. Owns what it has locked, and keeps that memory mapped until `close`. Whoever uses it must not give the
memory of a block back to the host before: the device would go on with the old pages.
"""

import contextlib
import mmap
import threading
from typing import Protocol

import numpy as np
import torch

_PORTABLE = 1
"""cudaHostRegisterPortable: locked for every device, not only for the current one."""


class HostLock(Protocol):
    """What locks pages for a device."""

    def lock(self, address: int, num_bytes: int) -> bool:
        """False when the driver refuses: copies then take the way through its own buffers."""
        ...

    def unlock(self, address: int) -> None: ...


class CudaLock:
    """cudaHostRegister and its counterpart."""

    def lock(self, address: int, num_bytes: int) -> bool:
        is_locked = int(torch.cuda.cudart().cudaHostRegister(address, num_bytes, _PORTABLE)) == 0
        if not is_locked:
            with contextlib.suppress(RuntimeError):  # torch raises the driver's last error at the next kernel: this one
                torch.zeros(1, device="cuda")
        return is_locked

    def unlock(self, address: int) -> None:
        torch.cuda.cudart().cudaHostUnregister(address)


class Pins:
    """Blocks that one device may move without a copy in between. Thread-safe."""

    def __init__(self, lock: HostLock) -> None:
        self._lock = lock
        self._held: dict[int, memoryview] = {}
        self._guard = threading.Lock()

    def ensure(self, block: memoryview) -> bool:
        """Whether the block is locked now. Only whole pages can be, so blocks must begin and end at one's border."""
        address = np.frombuffer(block, np.uint8).__array_interface__["data"][0]
        if address % mmap.PAGESIZE or block.nbytes % mmap.PAGESIZE:
            return False
        with self._guard:
            held = self._held.get(address)
            if held is None and self._lock.lock(address, block.nbytes):
                held = self._held[address] = block
            return held is not None

    @property
    def num_blocks(self) -> int:
        return len(self._held)

    def close(self) -> None:
        """Unlock all; nothing may be under way. Idempotent."""
        with self._guard:
            held, self._held = self._held, {}
        for address in held:
            self._lock.unlock(address)

    def __repr__(self) -> str:
        return f"Pins({self.num_blocks} blocks)"

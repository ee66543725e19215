"""Mooncake's transfer engine over TCP: one synchronous batch write of all blocks."""

import json
import sys
from importlib.metadata import version
from typing import Any

import numpy as np
from mooncake.engine import TransferEngine

from memserve.bench.systems.transfer_child import Receiver, num_regions, receive, serve_path, timed

_HOST = "127.0.0.1"


class MooncakeTransfer:
    """Peer-to-peer handshake, no metadata server."""

    version = version("mooncake-transfer-engine-non-cuda")
    num_calls = 0

    def open(self, path: str, block_bytes: int, num_blocks: int) -> None:
        total = num_blocks * block_bytes
        self._receiver = Receiver("mooncake_transfer", str(total))
        there = json.loads(self._receiver.hello)
        self._engine = _engine()
        self._memory = np.ones(num_regions(block_bytes, num_blocks) * total, np.uint8)
        _register(self._engine, self._memory)
        self._session = there["session"]
        self._targets = [there["address"] + number * block_bytes for number in range(num_blocks)]
        self._sizes = [block_bytes] * num_blocks
        self._total = total

    def move(self, region: int) -> int:
        first = self._memory.ctypes.data + region * self._total
        sources = [first + number * self._sizes[0] for number in range(len(self._sizes))]
        return timed(lambda: self._write(sources))

    def close(self) -> None:
        self._receiver.close()

    def _write(self, sources: list[int]) -> None:
        status = self._engine.batch_transfer_sync_write(self._session, sources, self._targets, self._sizes)
        if status != 0:
            raise RuntimeError(f"the transfer ended with {status}")


def _engine() -> Any:
    engine = TransferEngine()
    if engine.initialize(_HOST, "P2PHANDSHAKE", "tcp", "") != 0:
        raise RuntimeError("the transfer engine does not start over TCP")
    return engine


def _register(engine: Any, memory: Any) -> None:
    if engine.register_memory(memory.ctypes.data, memory.nbytes) != 0:
        raise RuntimeError(f"{memory.nbytes} bytes cannot be registered")


def _receive(total: int) -> None:
    engine = _engine()
    memory = np.ones(total, np.uint8)
    _register(engine, memory)
    receive(json.dumps({"session": f"{_HOST}:{engine.get_rpc_port()}", "address": memory.ctypes.data}))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _receive(int(sys.argv[1]))
    else:
        serve_path(MooncakeTransfer)

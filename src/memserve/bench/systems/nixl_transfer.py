"""NIXL over UCX: one prepared WRITE of all blocks, polled until done. UCX_TLS says which way UCX may take."""

import base64
import json
import sys
from importlib.metadata import version
from typing import Any

import numpy as np
from nixl._api import nixl_agent, nixl_agent_config

from memserve.bench.systems.transfer_child import Receiver, num_regions, receive, serve_path, timed


class NixlTransfer:
    """Descriptors are registered and prepared before the clock starts; making the request is counted."""

    version = version("nixl")
    num_calls = 0

    def open(self, path: str, block_bytes: int, num_blocks: int) -> None:
        total = num_blocks * block_bytes
        self._receiver = Receiver("nixl_transfer", path, str(total))
        there = json.loads(self._receiver.hello)
        self._agent = _agent("sender", path)
        self._memory = np.ones(num_regions(block_bytes, num_blocks) * total, np.uint8)
        self._agent.register_memory([(self._memory.ctypes.data, self._memory.nbytes, 0, "")], "DRAM")
        peer = self._agent.add_remote_agent(base64.b64decode(there["metadata"]))
        self._targets = self._agent.prep_xfer_dlist(peer, _blocks(there["address"], total, block_bytes), "DRAM")
        sources = _blocks(self._memory.ctypes.data, self._memory.nbytes, block_bytes)
        self._sources = self._agent.prep_xfer_dlist("NIXL_INIT_AGENT", sources, "DRAM")
        self._num_blocks = num_blocks

    def move(self, region: int) -> int:
        first = region * self._num_blocks
        sources, targets = list(range(first, first + self._num_blocks)), list(range(self._num_blocks))
        return timed(lambda: self._write(sources, targets))

    def close(self) -> None:
        self._receiver.close()

    def _write(self, sources: list[int], targets: list[int]) -> None:
        request = self._agent.make_prepped_xfer("WRITE", self._sources, sources, self._targets, targets)
        state = self._agent.transfer(request)
        while state == "PROC":
            state = self._agent.check_xfer_state(request)
        self._agent.release_xfer_handle(request)
        if state != "DONE":
            raise RuntimeError(f"the transfer ended with {state}")


def _agent(name: str, path: str) -> Any:
    agent = nixl_agent(name, nixl_agent_config(backends=[]))
    # UCX has no error handling over shared memory and makes no endpoint there when asked for it.
    agent.create_backend("UCX", {"ucx_error_handling_mode": "none" if path == "shm" else "peer"})
    return agent


def _blocks(address: int, total: int, block_bytes: int) -> list[tuple[int, int, int]]:
    return [(place, block_bytes, 0) for place in range(address, address + total, block_bytes)]


def _receive(path: str, total: int) -> None:
    agent = _agent("receiver", path)
    memory = np.ones(total, np.uint8)
    agent.register_memory([(memory.ctypes.data, memory.nbytes, 0, "")], "DRAM")
    metadata = base64.b64encode(agent.get_agent_metadata()).decode()
    receive(json.dumps({"metadata": metadata, "address": memory.ctypes.data}))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _receive(sys.argv[1], int(sys.argv[2]))
    else:
        serve_path(NixlTransfer)

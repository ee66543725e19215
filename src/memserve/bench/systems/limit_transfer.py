"""The machine's limits: a copy inside one process for shared memory, one plain socket for the network."""

import socket
import sys

import numpy as np

from memserve.bench.systems.transfer_child import Receiver, num_regions, serve_path, timed


class LimitTransfer:
    """Path "shm": np.copyto, block by block. Path "tcp": sendall on one connection, one byte back at the end."""

    version = f"NumPy {np.__version__}"
    num_calls = 0

    def open(self, path: str, block_bytes: int, num_blocks: int) -> None:
        self._memory = np.ones((num_regions(block_bytes, num_blocks), num_blocks, block_bytes), np.uint8)
        self._target = np.ones((num_blocks, block_bytes), np.uint8)
        self._receiver: Receiver | None = None
        if path == "tcp":
            self._receiver = Receiver("limit_transfer", str(num_blocks * block_bytes))
            self._socket = socket.create_connection(("127.0.0.1", int(self._receiver.hello)), timeout=30)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def move(self, region: int) -> int:
        return timed(lambda: self._copy(region) if self._receiver is None else self._send(region))

    def close(self) -> None:
        if self._receiver is not None:
            self._socket.close()
            self._receiver.close()

    def _copy(self, region: int) -> None:
        for target, source in zip(self._target, self._memory[region], strict=True):
            np.copyto(target, source)

    def _send(self, region: int) -> None:
        self._socket.sendall(self._memory[region].reshape(-1).data)
        if not self._socket.recv(1):
            raise RuntimeError("the receiver has gone")


def _receive(total: int) -> None:
    """Take `total` bytes into the same memory, answer with one byte, and so on."""
    memory = np.ones(total, np.uint8).data
    with socket.create_server(("127.0.0.1", 0)) as server:
        sys.stdout.write(f"> {server.getsockname()[1]}\n")
        sys.stdout.flush()
        connection, _ = server.accept()
    with connection:
        filled = 0
        while received := connection.recv_into(memory[filled:]):
            filled += received
            if filled == total:
                connection.sendall(b".")
                filled = 0


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _receive(int(sys.argv[1]))
    else:
        serve_path(LimitTransfer)

"""Blocks over data connections between two processes, beside a plain socket copy of the same bytes.

python -m tests.transport.measure_tcp

Both go over loopback, alternating in one run. "plain" is sendall and recv_into of all bytes in one piece
without checksums: the machine's limit for one stream. "fetch" is what MemPool.transfer uses, "write" what an
engine's worker uses; both verify every block, which needs one pass over the bytes at each end.
"""

import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from memserve.config import LOOPBACK
from memserve.core.clock import SystemClock
from memserve.core.ids import Incarnation, InstanceId, TransferId
from memserve.instance.setup import default_identity
from memserve.transport.base import Offer, RunCopy
from memserve.transport.rooms import Part, RemoteRoom
from memserve.transport.tcp import TcpTransport
from memserve.transport.tcp_server import DataServer
from memserve.transport.verified_copy import checksum
from memserve.wire.data_messages import ReadRequest, WriteRequest
from memserve.wire.messages import PeerInfo

SHAPES = ((16 << 10, 256), (256 << 10, 128), (2 << 20, 64))
"""Bytes of a block, number of blocks moved at once."""
FRAME_BYTES = 8 << 20
ROUNDS = 15


class Memory:
    """A BlockDoor over one piece of memory, open to everybody."""

    def __init__(self, block_bytes: int, num_blocks: int) -> None:
        whole = memoryview(bytearray(os.urandom(block_bytes) * num_blocks))
        self.views = [whole[i * block_bytes : (i + 1) * block_bytes] for i in range(num_blocks)]
        self.whole = whole

    def begin_write(self, request: WriteRequest) -> Sequence[memoryview]:
        return [self.views[index] for index in request.blocks]

    def end_write(self, request: WriteRequest, *, verified: bool) -> None:
        """Nothing is published."""

    def begin_read(self, request: ReadRequest) -> Sequence[memoryview]:
        return [self.views[index] for index in request.blocks]

    def check_offered(self, request: ReadRequest) -> None:
        """Always offered."""


def serve(block_bytes: int, num_blocks: int) -> None:
    memory = Memory(block_bytes, num_blocks)
    server = DataServer(network=LOOPBACK, door=memory, clock=SystemClock())
    plain = socket.create_server(("127.0.0.1", 0))
    sys.stdout.write(f"{server.start()} {plain.getsockname()[1]}\n")
    sys.stdout.flush()
    connection, _ = plain.accept()
    while True:
        target = memory.whole
        while target.nbytes:
            num_read = connection.recv_into(target)
            if not num_read:
                return
            target = target[num_read:]
        connection.sendall(b".")


def seconds(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def measure(memory: Memory, endpoint: str, port: int) -> dict[str, list[float]]:
    block_bytes, num_blocks = memory.views[0].nbytes, len(memory.views)
    transport = TcpTransport(clock=SystemClock())
    connection = socket.create_connection(("127.0.0.1", port))
    identity = default_identity(block_size=16, block_bytes=block_bytes)
    peer = PeerInfo(instance=InstanceId("p"), incarnation=Incarnation(1), endpoint="", identity=identity, data=endpoint)
    offer = Offer(peer=peer, transfer=TransferId("t"))
    room = RemoteRoom(endpoint=endpoint, transfer=TransferId("t"), ticket=b"")
    at_once = max(1, FRAME_BYTES // block_bytes)

    def plain() -> None:
        connection.sendall(memory.whole)
        connection.recv(1)

    def write() -> None:
        transport.write(
            room,
            (
                Part(
                    blocks=tuple(range(num_blocks))[first : first + at_once],
                    offset=0,
                    data=tuple(memory.views[first : first + at_once]),
                )
                for first in range(0, num_blocks, at_once)
            ),
        )

    write()  # now both sides hold the same bytes
    expected = [checksum(view) for view in memory.views]

    def fetch() -> None:
        runs = [RunCopy(source_index=i, target=view, checksums=(expected[i],)) for i, view in enumerate(memory.views)]
        transport.fetch(offer, runs)

    times: dict[str, list[float]] = {"plain": [], "fetch": [], "write": []}
    for _ in range(ROUNDS):
        for name, action in (("plain", plain), ("fetch", fetch), ("write", write)):
            times[name].append(seconds(action))
    transport.close()
    connection.close()
    return times


def main() -> None:
    if len(sys.argv) > 1:
        serve(int(sys.argv[1]), int(sys.argv[2]))
        return
    for block_bytes, num_blocks in SHAPES:
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.transport.measure_tcp", str(block_bytes), str(num_blocks)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert server.stdout is not None
        endpoint, port = server.stdout.readline().split()
        times = measure(Memory(block_bytes, num_blocks), endpoint, int(port))
        server.wait()
        medians = {name: statistics.median(found) for name, found in times.items()}
        rates = ", ".join(
            f"{name} {block_bytes * num_blocks / median / 1e9:5.2f} GB/s ({medians['plain'] / median:4.0%})"
            for name, median in medians.items()
        )
        sys.stdout.write(f"{block_bytes >> 10:6d} KiB x {num_blocks:4d}: {rates}\n")


if __name__ == "__main__":
    main()

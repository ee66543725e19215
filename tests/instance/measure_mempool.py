"""Control round trip and copy throughput between two processes of this host, printed as a table.

python -m tests.instance.measure_mempool
"""

import os
import statistics
import subprocess
import sys
import time

from memserve.instance.mempool import MemPool
from memserve.wire.messages import PeerInfo

SHAPES = ((16 << 10, 256), (256 << 10, 128), (2 << 20, 64))
"""Bytes of a block, number of blocks moved at once."""


def open_pool(instance: str, block_bytes: int, num_blocks: int) -> MemPool:
    return MemPool(
        instance=instance,
        block_size=16,
        block_bytes=block_bytes,
        dram_bytes=3 * num_blocks * block_bytes,
        cluster=f"measure{os.getppid() if instance == 'receiver' else os.getpid()}",
    )


def serve(block_bytes: int, num_blocks: int) -> None:
    with open_pool("receiver", block_bytes, num_blocks) as pool:
        sys.stdout.write(f"{pool.info.endpoint}\n")
        sys.stdout.flush()
        sys.stdin.read()


def median_s(repeat: int, action: object) -> float:
    times = []
    for number in range(repeat):
        begin = time.perf_counter()
        action(number)  # type: ignore[operator]
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def measure(pool: MemPool, peer: PeerInfo, block_bytes: int, num_blocks: int) -> str:
    source = pool.alloc_mem(num_blocks)
    pool.write(source, os.urandom(num_blocks * block_bytes))

    def control(_number: int) -> None:
        pool.free_mem(pool.alloc_mem(1, on=peer))

    def move(number: int) -> None:
        pool.transfer_with_insert(peer, range(number * 16 * num_blocks, (number + 1) * 16 * num_blocks), source)

    round_trip = median_s(300, control) / 2
    seconds = median_s(15, move)
    rate = num_blocks * block_bytes / seconds / 1e9
    return (
        f"{block_bytes >> 10:6d} KiB x {num_blocks:4d}: control round trip {round_trip * 1e6:5.0f} us, "
        f"transfer_with_insert {seconds * 1e3:6.1f} ms, {rate:5.2f} GB/s (checksums at both ends included)\n"
    )


def main() -> None:
    if len(sys.argv) > 1:
        serve(int(sys.argv[1]), int(sys.argv[2]))
        return
    for block_bytes, num_blocks in SHAPES:
        peer = subprocess.Popen(
            [sys.executable, "-m", "tests.instance.measure_mempool", str(block_bytes), str(num_blocks)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with peer, open_pool("sender", block_bytes, num_blocks) as pool:
            assert peer.stdout is not None
            info = pool.connect(peer.stdout.readline().strip())
            sys.stdout.write(measure(pool, info, block_bytes, num_blocks))


if __name__ == "__main__":
    main()

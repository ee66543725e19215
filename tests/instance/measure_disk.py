"""Throughput of the disk tier beside plain writes and reads of the same bytes, alternating, printed as a table.

python -m tests.instance.measure_disk [FOLDER]      (FOLDER on the disk in question; what is read is in the page cache)
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from memserve.config import DiskPlace
from memserve.core.enums import Tier
from memserve.instance.mempool import MemPool

SHAPES = ((128 << 10, 256), (1440 << 10, 64), (6400 << 10, 16))
"""Bytes of a block, number of blocks moved at once."""
ROUNDS = 9
BLOCK_SIZE = 16


def seconds(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def plain_write(path: Path, blocks: list[memoryview]) -> None:
    with path.open("r+b", buffering=0) as file:
        for block in blocks:
            file.write(block)


def plain_read(path: Path, target: memoryview, num_blocks: int) -> None:
    with path.open("rb", buffering=0) as file:
        for _ in range(num_blocks):
            file.readinto(target)


def measure(folder: Path, block_bytes: int, num_blocks: int) -> str:
    size = num_blocks * block_bytes
    tokens = bytes(num_blocks * BLOCK_SIZE * 4)
    plain = folder / "plain"
    plain.write_bytes(bytes(size))
    place = DiskPlace(folder=str(folder), size_bytes=3 * size + (4 << 20))
    times: dict[str, list[float]] = {"write": [], "demote": [], "read": [], "promote": []}
    with MemPool(
        instance="measured",
        block_size=BLOCK_SIZE,
        block_bytes=block_bytes,
        dram_bytes=2 * size,  # below the high mark
        cluster=f"measuredisk{os.getpid()}",
        disk=place,
    ) as pool:
        blocks = pool.alloc_mem(num_blocks)
        pool.write(blocks, os.urandom(size))
        views = [pool.view(block) for block in blocks.blocks]
        pool.insert(tokens, blocks)
        spare = memoryview(bytearray(block_bytes))
        for _ in range(ROUNDS):
            times["write"].append(seconds(lambda: plain_write(plain, views)))
            times["demote"].append(seconds(lambda: pool.swap_out(num_blocks, source=Tier.DRAM, target=Tier.DISK)))
            times["read"].append(seconds(lambda: plain_read(plain, spare, num_blocks)))
            times["promote"].append(seconds(lambda: pool.tiers.promote(tokens, namespace=b"", deadline_s=60).result()))
    (folder / "measured.kv").unlink()
    rates = {name: size / statistics.median(taken) / 1e9 for name, taken in times.items()}
    return (
        f"{num_blocks:4d} x {block_bytes >> 10:5d} KiB: demote {rates['demote']:5.2f} GB/s beside a plain write at "
        f"{rates['write']:5.2f}, promote {rates['promote']:5.2f} beside a plain read at {rates['read']:5.2f}\n"
    )


def main() -> None:
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        for block_bytes, num_blocks in SHAPES:
            sys.stdout.write(measure(Path(folder), block_bytes, num_blocks))


if __name__ == "__main__":
    main()

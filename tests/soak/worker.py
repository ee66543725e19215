"""One process of a soak: a pool and two threads of random calls until told to settle. Not a test.

python -m tests.soak.worker CLUSTER MANAGER INSTANCE SEED PATHS FOLDER

FOLDER takes its disk tier: whoever comes after it under its name finds there what it has left. Says its endpoint.
Lines in: "peers ENDPOINT ...", then at the end "settle" (give everything back, say so), "balance" (say as JSON what
happened and what does not balance), and the end of the input.
"""

import json
import logging
import sys
import threading
import time
import traceback
from collections import Counter
from random import Random

from memserve.config import DiskPlace, Watermarks
from memserve.core.enums import DataPath, Role
from memserve.core.errors import InvariantError
from memserve.instance.mempool import MemPool
from memserve.wire.messages import Load
from tests.serving.pool_process import BLOCK_SIZE, say
from tests.soak.player import BLOCK_BYTES, NUM_BLOCKS, Player

NUM_THREADS = 2
_BALANCED_WITHIN_S = 30.0
"""What a dead or forgetful peer held here ends by then: its time to live, or the cluster manager's word."""


class Worker:
    def __init__(self, pool: MemPool, *, seed: int) -> None:
        self._pool = pool
        self.peers: list[str] = []
        self._stopping = threading.Event()
        self._unexpected: list[str] = []
        self._players = [
            Player(pool, peers=lambda: self.peers, random=Random(f"{seed}/{n}")) for n in range(NUM_THREADS)
        ]
        self._threads = [threading.Thread(target=self._run, args=[player]) for player in self._players]
        for thread in self._threads:
            thread.start()

    def settle(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        for player in self._players:
            player.drop_all()

    def balance(self) -> dict[str, object]:
        """Waits until nothing is held any more, or says what is."""
        deadline = time.monotonic() + _BALANCED_WITHIN_S
        while (open_items := self._open_items()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return {
            "calls": sum((player.calls for player in self._players), Counter()),
            "errors": sum((player.errors for player in self._players), Counter()),
            "unexpected": self._unexpected,
            "open": open_items,
        }

    def _run(self, player: Player) -> None:
        while not self._stopping.is_set():
            try:
                player.play()
            except Exception:
                self._unexpected.append(traceback.format_exc())
                return

    def _open_items(self) -> str:
        """What is not accounted for; "" when each block is free or cached and nobody holds anything."""
        stats = self._pool.stats()
        held = {
            "leases": stats.num_leases,
            "transfers": stats.num_transfers_open,
            "handoffs": stats.num_handoffs,
            "pins": len([*self._pool.pins]),
            **{f"{tier.tier.name} blocks reserved": tier.num_reserved for tier in stats.tiers},
        }
        try:
            self._pool.local.check()
        except InvariantError as error:
            return f"the books do not balance: {error}"
        return ", ".join(f"{number} {what}" for what, number in held.items() if number)


def main() -> None:
    cluster, manager, instance, seed, paths, folder = sys.argv[1:]
    logging.basicConfig(level=logging.ERROR)
    with MemPool(
        instance=instance,
        block_size=BLOCK_SIZE,
        block_bytes=BLOCK_BYTES,
        dram_bytes=NUM_BLOCKS * BLOCK_BYTES,
        cluster=cluster,
        paths=tuple(map(DataPath, paths.split(","))),
        disk=DiskPlace(folder=folder, size_bytes=NUM_BLOCKS * (BLOCK_BYTES + 4096)),
        marks=Watermarks(low=0.4, high=0.6),
    ) as pool:
        pool.membership.join(manager, cluster=cluster, role=Role.MEMORY, url="", load=Load)
        worker = Worker(pool, seed=int(seed))
        say(pool.info.endpoint)
        try:
            for line in sys.stdin:
                command, *rest = line.split()
                match command:
                    case "peers":
                        worker.peers = rest
                    case "settle":
                        worker.settle()
                        say("settled")
                    case _:
                        say(json.dumps(worker.balance()))
        finally:
            worker.settle()


if __name__ == "__main__":
    main()

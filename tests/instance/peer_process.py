"""A second process with a pool, for tests that kill it: does one thing, says so, and waits for its end.

python -m tests.instance.peer_process CLUSTER INSTANCE ENDPOINT DEED
"""

import sys
import time

from memserve.core.ids import RequestId, TransferId
from memserve.instance.mempool import MemPool
from memserve.storage.shared_memory import attach
from memserve.wire.messages import CommitRequest, PeerInfo, ReserveRequest
from tests.instance.conftest import BLOCK_BYTES, BLOCK_SIZE
from tests.instance.contents import PROMPT_BLOCKS, contents, prompt

REQUEST = RequestId("killed")
DATA = b"".join(token.to_bytes(4, "little") for token in range(10))


def allocate(pool: MemPool, peer: PeerInfo) -> None:
    pool.alloc_mem(3, on=peer)


def connect(_pool: MemPool, _peer: PeerInfo) -> None:
    """The handshake is all there is to do."""


def reserve(pool: MemPool, peer: PeerInfo) -> tuple[TransferId, int]:
    """Reserve three blocks, write the first and half of the second."""
    name = TransferId(f"{pool.info.instance}/{time.time_ns()}")
    reply = pool.reserve(
        peer,
        ReserveRequest(
            transfer=name,
            request=REQUEST,
            sender=pool.info.instance,
            incarnation=pool.info.incarnation,
            tokens=DATA,
            namespace=b"",
            reuse=True,
            tail=True,
            handoff=True,
            ttl_s=60,
        ),
    ).result()
    assert peer.arena is not None
    arena = attach(peer.arena)
    arena.view(reply.blocks[0] & 0xFFFFFFFF)[:] = b"1" * BLOCK_BYTES
    arena.view(reply.blocks[1] & 0xFFFFFFFF)[: BLOCK_BYTES // 2] = b"2" * (BLOCK_BYTES // 2)
    return name, len(reply.blocks)


def commit(pool: MemPool, peer: PeerInfo) -> None:
    name, num_blocks = reserve(pool, peer)
    pool.commit(peer, CommitRequest(transfer=name, num_blocks=num_blocks, insert=True)).result()


def stream(pool: MemPool, peer: PeerInfo) -> None:
    """Transfer one prompt after the other until killed; says so after the first."""
    for number in range(10_000):
        blocks = pool.alloc_mem(PROMPT_BLOCKS)
        pool.write(blocks, contents(number))
        pool.transfer_with_insert(peer, prompt(number), blocks, private=number.to_bytes(4, "little"))
        pool.free_mem(blocks)
        if number == 0:
            sys.stdout.write("done\n")
            sys.stdout.flush()


def main() -> None:
    cluster, instance, endpoint, deed = sys.argv[1:]
    with MemPool(
        instance=instance,
        block_size=BLOCK_SIZE,
        block_bytes=BLOCK_BYTES,
        dram_bytes=64 * BLOCK_BYTES,
        cluster=cluster,
    ) as pool:
        peer = pool.connect(endpoint) if endpoint else pool.info
        deeds = {"allocate": allocate, "connect": connect, "reserve": reserve, "commit": commit, "stream": stream}
        deeds[deed](pool, peer)
        sys.stdout.write(f"{pool.info.endpoint}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()

"""A second process with a pool, for tests that kill it: does one thing, says so, and waits for its end.

python -m tests.instance.peer_process CLUSTER INSTANCE ENDPOINT DEED [PATH]
"""

import socket
import sys
import time
from collections.abc import Callable

from memserve.config import ALL_PATHS
from memserve.core.clock import SystemClock
from memserve.core.enums import DataPath
from memserve.core.ids import RequestId, TransferId, block_index
from memserve.instance.mempool import MemPool
from memserve.storage.shared_memory import attach
from memserve.transport.framed_socket import FramedSocket, TcpLimits
from memserve.transport.nixl_agent import NixlAgent
from memserve.transport.verified_copy import checksum
from memserve.wire.data_messages import ShownWriteRequest, WriteRequest
from memserve.wire.messages import CommitRequest, PeerInfo, ReserveRequest
from tests.instance.conftest import BLOCK_BYTES, BLOCK_SIZE
from tests.instance.contents import PROMPT_BLOCKS, contents, prompt

REQUEST = RequestId("killed")
OPEN: list[object] = []
"""What ends with the process."""
BLOCK = memoryview(bytearray(b"1" * BLOCK_BYTES))
DATA = b"".join(token.to_bytes(4, "little") for token in range(10))


def allocate(pool: MemPool, peer: PeerInfo) -> None:
    pool.alloc_mem(3, on=peer)


def connect(_pool: MemPool, _peer: PeerInfo) -> None:
    """The handshake is all there is to do."""


def reserve(pool: MemPool, peer: PeerInfo) -> tuple[TransferId, int]:
    """Reserve three blocks, write the first and half of the second."""
    name = TransferId(f"{pool.info.instance}/{time.time_ns()}")
    reply = pool.engine_path.reserve(
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


def write_half(pool: MemPool, peer: PeerInfo) -> None:
    """Reserve two blocks for bytes over the network, send one of them and half of the other."""
    framed, frame = two_blocks_for(pool, peer, DataPath.TCP)
    framed.send(frame, num_follow=2 * BLOCK_BYTES)
    framed.send_bytes([BLOCK, BLOCK[: BLOCK_BYTES // 2]])


def show_only(pool: MemPool, peer: PeerInfo) -> None:
    """Reserve two blocks for bytes by NIXL, show them, and leave NIXL to itself."""
    framed, frame = two_blocks_for(pool, peer, DataPath.NIXL)
    agent = NixlAgent(f"{pool.info.instance}/{time.time_ns()}", clock=SystemClock())
    framed.send(ShownWriteRequest(write=frame, shown=agent.show([BLOCK, BLOCK])))
    OPEN.append(agent)


def two_blocks_for(pool: MemPool, peer: PeerInfo, path: DataPath) -> tuple[FramedSocket, WriteRequest]:
    """A connection that ends with the process, and what announces twice BLOCK in room that is reserved for it."""
    asked = ReserveRequest(
        transfer=TransferId(f"{pool.info.instance}/{time.time_ns()}"),
        request=REQUEST,
        sender=pool.info.instance,
        incarnation=pool.info.incarnation,
        tokens=DATA[: 2 * BLOCK_SIZE * 4],
        namespace=b"",
        reuse=False,
        tail=False,
        handoff=True,
        ttl_s=60,
        path=path,
    )
    reply = pool.engine_path.reserve(peer, asked).result()
    host, port = peer.data.removeprefix("tcp://").split(":")
    framed = FramedSocket(
        socket.create_connection((host, int(port))), peer=peer.data, limits=TcpLimits(), clock=SystemClock()
    )
    OPEN.append(framed)
    return framed, WriteRequest(
        transfer=asked.transfer,
        ticket=reply.ticket,
        blocks=tuple(block_index(one) for one in reply.blocks),
        offset=0,
        length=BLOCK_BYTES,
        checksums=(checksum(BLOCK),) * 2,
    )


def commit(pool: MemPool, peer: PeerInfo) -> None:
    name, num_blocks = reserve(pool, peer)
    pool.engine_path.commit(peer, CommitRequest(transfer=name, num_blocks=num_blocks, insert=True)).result()


def hold(pool: MemPool, _peer: PeerInfo) -> None:
    """Cache six prompts with their right contents."""
    for number in range(6):
        blocks = pool.alloc_mem(PROMPT_BLOCKS)
        pool.write(blocks, contents(number))
        pool.insert(prompt(number), blocks)


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


DEEDS: dict[str, Callable[[MemPool, PeerInfo], object]] = {
    "allocate": allocate,
    "connect": connect,
    "reserve": reserve,
    "write half": write_half,
    "show only": show_only,
    "commit": commit,
    "hold": hold,
    "stream": stream,
}


def main() -> None:
    cluster, instance, endpoint, deed, *paths = sys.argv[1:]
    with MemPool(
        instance=instance,
        block_size=BLOCK_SIZE,
        block_bytes=BLOCK_BYTES,
        dram_bytes=64 * BLOCK_BYTES,
        cluster=cluster,
        paths=tuple(map(DataPath, paths)) or ALL_PATHS,
    ) as pool:
        peer = pool.connect(endpoint) if endpoint else pool.info
        DEEDS[deed](pool, peer)
        sys.stdout.write(f"{pool.info.endpoint}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()

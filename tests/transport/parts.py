"""A pool's data side without its agent: real ledger, real memory, real data server on loopback."""

import os
import time
from contextlib import AbstractContextManager

import msgspec

from memserve.config import LOOPBACK
from memserve.core.clock import SystemClock
from memserve.core.enums import DataPath, Tier
from memserve.core.ids import BlockId, Incarnation, InstanceId, RequestId, TransferId, block_index
from memserve.instance.core import PoolCore
from memserve.instance.data_door import DataDoor
from memserve.instance.setup import default_identity
from memserve.instance.tiers import TierMemory
from memserve.storage.shared_memory import SharedMemory
from memserve.transfer.record import peer_owner
from memserve.transport.base import RunCopy
from memserve.transport.framed_socket import TcpLimits
from memserve.transport.nixl_agent import NixlAgent
from memserve.transport.rooms import Part, RemoteRoom
from memserve.transport.tcp_server import DataServer
from memserve.transport.verified_copy import checksum
from memserve.wire.messages import AbortRequest, CommitRequest, PeerInfo, ReserveRequest

BLOCK_BYTES = 64 << 10
NUM_BLOCKS = 16
BLOCK_SIZE = 4
TRANSFER = TransferId("sender/1/1")
SENDER = InstanceId("sender"), Incarnation(1)
LIMITS = TcpLimits(connect_s=5.0, stall_s=10.0, idle_s=60.0, max_connections=4)
IMPATIENT = msgspec.structs.replace(LIMITS, stall_s=0.3)
"""For tests in which somebody stalls on purpose; elsewhere a busy machine must not look like a stall."""


class Side:
    """One pool: its books, its memory, its data server."""

    def __init__(self, name: str, *, limits: TcpLimits = LIMITS) -> None:
        self.arena = SharedMemory(
            cluster=f"paths{os.getpid()}",
            instance=InstanceId(name),
            incarnation=Incarnation(time.time_ns()),
            num_blocks=NUM_BLOCKS,
            block_bytes=BLOCK_BYTES,
        )
        memory = TierMemory({Tier.DRAM: self.arena}, block_bytes=BLOCK_BYTES)
        self.core = PoolCore(memory=memory, block_size=BLOCK_SIZE, clock=SystemClock())
        self.door = DataDoor(self.core, block_bytes=BLOCK_BYTES)
        self.nixl = NixlAgent(f"{name}/{time.time_ns()}", clock=SystemClock())
        self.server = DataServer(network=LOOPBACK, door=self.door, clock=SystemClock(), limits=limits, nixl=self.nixl)
        self.info = PeerInfo(
            instance=InstanceId(name),
            incarnation=Incarnation(1),
            endpoint="tcp://127.0.0.1:9",
            identity=default_identity(block_size=BLOCK_SIZE, block_bytes=BLOCK_BYTES),
            arena=self.arena.ref,
            data=self.server.start(),
        )

    def fill(self, num_blocks: int) -> tuple[BlockId, ...]:
        """Blocks with random bytes."""
        blocks = self.core.ledger.allocate(num_blocks, tier=Tier.DRAM, owner="test")
        for block in blocks:
            self.core.memory.view(block)[:] = os.urandom(BLOCK_BYTES)
        return blocks

    def read(self, blocks: tuple[BlockId, ...]) -> list[bytes]:
        return [bytes(self.core.memory.view(block)) for block in blocks]

    def arena_bytes(self) -> bytes:
        """All of them, used or not."""
        return b"".join(self.arena.view(index) for index in range(NUM_BLOCKS))

    def offer(self, blocks: tuple[BlockId, ...]) -> AbstractContextManager[bytes]:
        return self.door.offer(TRANSFER, blocks)

    def copies_of(self, source: "Side", blocks: tuple[BlockId, ...], targets: tuple[BlockId, ...]) -> list[RunCopy]:
        return [
            RunCopy(
                source_index=block_index(block),
                target=self.core.memory.view(target),
                checksums=(checksum(source.core.memory.view(block)),),
            )
            for block, target in zip(blocks, targets, strict=True)
        ]

    def reserve(self, num_blocks: int, *, endpoint: str = "") -> tuple[RemoteRoom, tuple[BlockId, ...]]:
        """Room as an engine of SENDER gets it."""
        reply = self.core.sessions.reservations.reserve(
            ReserveRequest(
                transfer=TRANSFER,
                request=RequestId("r"),
                sender=SENDER[0],
                incarnation=SENDER[1],
                tokens=tokens(num_blocks),
                namespace=b"",
                reuse=False,
                tail=False,
                handoff=False,
                ttl_s=60,
                path=DataPath.TCP,
            )
        )
        ticket = self.door.ticket(TRANSFER, peer_owner(*SENDER))
        room = RemoteRoom(endpoint=endpoint or self.info.data, transfer=TRANSFER, ticket=ticket)
        return room, reply.blocks

    def commit(self, num_blocks: int) -> None:
        with self.core.lock:
            self.core.sessions.reservations.commit(
                CommitRequest(transfer=TRANSFER, num_blocks=num_blocks, insert=True), None
            )

    def abort(self) -> None:
        with self.core.lock:
            self.core.sessions.reservations.abort(AbortRequest(transfer=TRANSFER).transfer, None)

    def num_visible(self, num_blocks: int) -> int:
        with self.core.lock:
            match = self.core.ledger.match(tokens(num_blocks), owner="look")
            if match.lease is not None:
                self.core.ledger.release(match.lease)
            return len(match.blocks)

    def is_free_of_transfers(self) -> bool:
        """Nothing is open, nothing reserved, no lease; the books balance."""
        with self.core.lock:
            self.core.ledger.check()
            stats = self.core.ledger.stats()[0]
            return (self.core.sessions.stats().num_open, stats.num_reserved, stats.num_leased) == (0, 0, 0)

    def close(self) -> None:
        self.server.close()
        self.nixl.close()
        self.arena.close()


def tokens(num_blocks: int) -> bytes:
    return b"".join(token.to_bytes(4, "little") for token in range(num_blocks * BLOCK_SIZE))


def parts_for(blocks: tuple[BlockId, ...], data: list[bytes], *, at_once: int = 2) -> list[Part]:
    """Frames that bring `data` into reserved blocks, cut from one piece of memory as an engine's are."""
    whole = memoryview(bytearray(b"".join(data)))
    views = [whole[first : first + BLOCK_BYTES] for first in range(0, len(whole), BLOCK_BYTES)]
    return [
        Part(
            blocks=tuple(block_index(block) for block in blocks[first : first + at_once]),
            offset=0,
            data=tuple(views[first : first + at_once]),
        )
        for first in range(0, len(blocks), at_once)
    ]

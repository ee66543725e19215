"""Copies between two arenas of one host."""

import os
import time
from collections.abc import Iterator
from functools import partial

import msgspec
import pytest

from memserve.core.errors import InstanceUnavailable, InvalidBlocks, TransferFailed
from memserve.core.ids import Incarnation, InstanceId, TransferId
from memserve.instance.setup import default_identity
from memserve.storage.shared_memory import SharedMemory, attach
from memserve.transport.base import Offer, RunCopy
from memserve.transport.shm import SharedMemoryTransport
from memserve.transport.verified_copy import CopyThreads, checksum
from memserve.wire.messages import PeerInfo

BLOCK_BYTES = 4096


def make(instance: str) -> SharedMemory:
    return SharedMemory(
        cluster=f"transporttest{os.getpid()}",
        instance=InstanceId(instance),
        incarnation=Incarnation(time.time_ns()),
        num_blocks=4,
        block_bytes=BLOCK_BYTES,
    )


@pytest.fixture
def arenas() -> Iterator[tuple[SharedMemory, SharedMemory]]:
    sender, receiver = make("sender"), make("receiver")
    for index in range(4):
        sender.view(index)[:] = os.urandom(BLOCK_BYTES)
    yield sender, receiver
    sender.close()
    receiver.close()


@pytest.fixture
def transport() -> Iterator[SharedMemoryTransport]:
    threads = CopyThreads()
    made = SharedMemoryTransport(partial(attach, writable=False), threads=threads, max_arenas=1)
    yield made
    made.close()
    threads.close()


def offer(arena: SharedMemory) -> Offer:
    identity = default_identity(block_size=16, block_bytes=BLOCK_BYTES)
    peer = PeerInfo(
        instance=InstanceId("p"), incarnation=Incarnation(1), endpoint="", identity=identity, arena=arena.ref
    )
    return Offer(peer=peer, transfer=TransferId("t"))


def copies(sender: SharedMemory, receiver: SharedMemory) -> list[RunCopy]:
    return [
        RunCopy(source_index=n, target=receiver.view(3 - n), checksums=(checksum(sender.view(n)),)) for n in range(4)
    ]


def test_all_blocks_arrive_where_they_should(
    arenas: tuple[SharedMemory, SharedMemory], transport: SharedMemoryTransport
) -> None:
    sender, receiver = arenas
    transport.fetch(offer(sender), copies(sender, receiver))
    assert [bytes(receiver.view(3 - n)) for n in range(4)] == [bytes(sender.view(n)) for n in range(4)]


def test_a_block_that_changed_on_the_way_fails_the_whole_fetch(
    arenas: tuple[SharedMemory, SharedMemory], transport: SharedMemoryTransport
) -> None:
    sender, receiver = arenas
    announced = copies(sender, receiver)
    sender.view(2)[7] ^= 1
    with pytest.raises(TransferFailed, match="block 2"):
        transport.fetch(offer(sender), announced)


def test_an_arena_that_is_gone_is_an_unavailable_instance(
    arenas: tuple[SharedMemory, SharedMemory], transport: SharedMemoryTransport
) -> None:
    sender, receiver = arenas
    announced = copies(sender, receiver)
    sender.close()
    with pytest.raises(InstanceUnavailable):
        transport.fetch(offer(sender), announced)


def test_a_source_beyond_the_arena_is_refused(
    arenas: tuple[SharedMemory, SharedMemory], transport: SharedMemoryTransport
) -> None:
    sender, receiver = arenas
    outside = msgspec.structs.replace(copies(sender, receiver)[0], source_index=4)
    with pytest.raises(InvalidBlocks):
        transport.fetch(offer(sender), [outside])


def test_mapped_arenas_are_bounded_and_mapped_again_when_needed(
    arenas: tuple[SharedMemory, SharedMemory], transport: SharedMemoryTransport
) -> None:
    sender, receiver = arenas
    transport.fetch(offer(sender), copies(sender, receiver))
    transport.fetch(offer(receiver), copies(receiver, sender))
    assert "1 arenas" in repr(transport)
    transport.fetch(offer(sender), copies(sender, receiver))

"""A pool's events over its real agent: told in order, told again, and a snapshot when they are gone."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from memserve.core.clock import ManualClock
from memserve.core.enums import Tier
from memserve.core.errors import InstanceUnavailable, ProtocolError
from memserve.core.ids import Incarnation
from memserve.instance.core import PoolCore
from memserve.instance.event_publisher import MAX_WAITING, EventPublisher, ReplayBuffer
from memserve.instance.mempool import MemPool
from memserve.instance.tiers import TierMemory
from memserve.pool.events import BlocksEvicted, BlocksStored, EventsLost
from memserve.rpc.channel import RpcClient
from memserve.storage.private_memory import PrivateMemory
from memserve.wire.messages import (
    EventsReply,
    EventsRequest,
    PeerInfo,
    PeerMessage,
    SnapshotReply,
    SnapshotRequest,
)
from tests.instance.conftest import BLOCK_BYTES, BLOCK_SIZE

ONE, TWO = [1] * BLOCK_SIZE, [2] * BLOCK_SIZE


@pytest.fixture
async def client(a: MemPool) -> AsyncIterator[RpcClient[object]]:
    client: RpcClient[object] = RpcClient(a.info.endpoint, PeerMessage)
    yield client
    await client.close()


def store(pool: MemPool, tokens: list[int]) -> None:
    pool.insert(tokens, pool.alloc_mem(len(tokens) // BLOCK_SIZE))


def after(peer: PeerInfo, seq: int, *, wait_s: float = 0.0) -> EventsRequest:
    return EventsRequest(instance=peer.instance, incarnation=peer.incarnation, after_seq=seq, max_wait_s=wait_s)


async def events(client: RpcClient[object], request: EventsRequest) -> EventsReply:
    reply = await client.call(request, deadline_s=10)
    assert isinstance(reply, EventsReply)
    return reply


async def test_events_come_in_order_and_can_be_asked_for_again(a: MemPool, client: RpcClient[object]) -> None:
    store(a, ONE)
    store(a, TWO)
    a.delete(ONE)
    for _ in range(2):
        reply = await events(client, after(a.info, 0))
        assert [(event.seq, type(event)) for event in reply.events] == [
            (1, BlocksStored),
            (2, BlocksStored),
            (3, BlocksEvicted),
        ]
    assert [event.seq for event in (await events(client, after(a.info, 2))).events] == [3]


async def test_who_asks_early_is_answered_when_something_happens(a: MemPool, client: RpcClient[object]) -> None:
    asked = asyncio.create_task(events(client, after(a.info, 0, wait_s=10)))
    await client.call(after(a.info, 5), deadline_s=10)  # the one before has been received, too
    store(a, ONE)
    assert [event.seq for event in (await asked).events] == [1]


async def test_without_events_the_answer_is_empty_after_the_time_given(a: MemPool, client: RpcClient[object]) -> None:
    assert await events(client, after(a.info, 0, wait_s=0.01)) == EventsReply(last_seq=0)


@pytest.mark.parametrize("seq", [-1, 2])
async def test_a_place_that_never_was_is_a_gap(a: MemPool, client: RpcClient[object], seq: int) -> None:
    store(a, ONE)
    assert (await events(client, after(a.info, seq))).is_gap


async def test_another_incarnation_is_not_answered_for(a: MemPool, client: RpcClient[object]) -> None:
    request = EventsRequest(instance=a.info.instance, incarnation=Incarnation(1), after_seq=0, max_wait_s=0)
    with pytest.raises(InstanceUnavailable, match="is gone: this is a/"):
        await client.call(request, deadline_s=10)


@pytest.mark.parametrize("wait_s", [-1.0, 1e9, float("nan")])
async def test_impossible_waits_are_refused(a: MemPool, client: RpcClient[object], wait_s: float) -> None:
    with pytest.raises(ProtocolError, match="max_wait_s"):
        await client.call(after(a.info, 0, wait_s=wait_s), deadline_s=10)


async def test_too_many_readers_are_refused_and_those_that_wait_are_served(
    a: MemPool, client: RpcClient[object]
) -> None:
    asked = [asyncio.create_task(events(client, after(a.info, 0, wait_s=10))) for _ in range(MAX_WAITING)]
    await events(client, after(a.info, 5))  # those before have been received, too
    with pytest.raises(InstanceUnavailable, match="readers wait for events already"):
        await client.call(after(a.info, 0, wait_s=10), deadline_s=10)
    store(a, ONE)
    assert {reply.last_seq for reply in await asyncio.gather(*asked)} == {1}


async def test_a_snapshot_tells_all_and_its_events_go_on(a: MemPool, client: RpcClient[object]) -> None:
    store(a, ONE + TWO)
    request = SnapshotRequest(instance=a.info.instance, incarnation=a.info.incarnation)
    reply = await client.call(request, deadline_s=10)
    assert isinstance(reply, SnapshotReply)
    assert (reply.seq, len(reply.entries), reply.next_position) == (1, 1, None)
    store(a, TWO)
    assert [event.seq for event in (await events(client, after(a.info, reply.seq))).events] == [2]


# ---------------------------------------------------------------- the publisher alone, for what takes time or room


class Desk:
    """A publisher over a pool without a process."""

    def __init__(self, me: PeerInfo, *, max_events: int = 8192) -> None:
        memory = TierMemory(
            {Tier.DRAM: PrivateMemory(num_blocks=1024, block_bytes=BLOCK_BYTES)}, block_bytes=BLOCK_BYTES
        )
        self.clock = ManualClock()
        self.me = me
        self.core = PoolCore(memory=memory, block_size=BLOCK_SIZE, clock=self.clock)
        buffer = ReplayBuffer(max_events=max_events)
        self.publisher = EventPublisher(core=self.core, local=lambda: me, buffer=buffer)

    def store(self, *numbers: int, num_blocks: int = 1) -> None:
        for number in numbers:
            blocks = self.core.ledger.allocate(num_blocks, tier=Tier.DRAM, owner="test")
            self.core.ledger.insert([number] * BLOCK_SIZE * num_blocks, blocks)

    async def after(self, seq: int) -> EventsReply:
        return await self.publisher.events(after(self.me, seq))

    def snapshot(self, seq: int | None = None, position: int = 0) -> SnapshotReply:
        me = self.me
        return self.publisher.snapshot(
            SnapshotRequest(instance=me.instance, incarnation=me.incarnation, seq=seq, position=position)
        )


@pytest.fixture
def desk(a: MemPool) -> Desk:
    return Desk(a.info, max_events=3)


async def test_what_the_buffer_no_longer_has_is_a_gap(desk: Desk) -> None:
    desk.store(1, 2, 3)
    assert len((await desk.after(0)).events) == 3
    desk.store(4)
    assert (await desk.after(0)).is_gap
    assert [event.seq for event in (await desk.after(1)).events] == [2, 3, 4]


async def test_many_events_come_in_several_answers_that_say_that_there_are_more(a: MemPool) -> None:
    desk = Desk(a.info)
    for number in range(6):
        desk.store(number, num_blocks=100)
        desk.core.ledger.delete([number] * BLOCK_SIZE)
    seen = 0
    for number in range(1000):
        desk.store(number)
    while True:
        reply = await desk.after(seen)
        assert [event.seq for event in reply.events] == list(range(seen + 1, seen + 1 + len(reply.events)))
        seen = reply.events[-1].seq
        if seen == reply.last_seq:
            break
        assert len(reply.events) == 512
    assert seen == 1012


async def test_a_snapshot_is_shared_as_long_as_its_events_can_be_continued(desk: Desk) -> None:
    desk.store(1)
    first = desk.snapshot()
    desk.store(2)
    assert desk.snapshot().seq == first.seq
    desk.store(3, 4, 5)
    assert desk.snapshot().seq == 5
    with pytest.raises(InstanceUnavailable, match="begin another"):
        desk.snapshot(seq=first.seq)


async def test_a_snapshot_that_nobody_reads_is_dropped(desk: Desk) -> None:
    desk.store(1)
    seq = desk.snapshot().seq
    desk.clock.advance(29)
    await desk.publisher.tick()
    assert desk.snapshot(seq=seq).seq == seq
    desk.clock.advance(31)
    await desk.publisher.tick()
    with pytest.raises(InstanceUnavailable, match="begin another"):
        desk.snapshot(seq=seq)


@pytest.mark.parametrize("position", [-1, 2])
async def test_a_place_beyond_the_snapshot_is_refused(desk: Desk, position: int) -> None:
    desk.store(1)
    with pytest.raises(ProtocolError, match="of a snapshot with 1 entries"):
        desk.snapshot(position=position)


def test_events_that_the_pool_lost_cannot_be_replayed() -> None:
    buffer = ReplayBuffer()
    buffer.add([event(1), event(2), EventsLost(seq=5, num_events=3), event(6)])
    assert [buffer.reaches(seq) for seq in (4, 5, 6, 7)] == [False, True, True, False]
    assert [e.seq for e in buffer.after(5, max_events=9, max_bytes=999)] == [6]


def test_the_buffer_is_bounded_by_the_bytes_of_its_tokens() -> None:
    buffer = ReplayBuffer(max_bytes=10)
    buffer.add([event(1), event(2), event(3)])
    assert [buffer.reaches(seq) for seq in (0, 1)] == [False, True]
    assert [e.seq for e in buffer.after(1, max_events=9, max_bytes=4)] == [2]


def event(seq: int) -> BlocksStored:
    return BlocksStored(seq=seq, namespace=b"", tokens=b"1234", num_blocks=1, tier=Tier.DRAM)

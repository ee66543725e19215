"""The reader of events against a scripted instance behind a real RPC server."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from memserve.core.clock import SystemClock
from memserve.core.enums import Tier
from memserve.core.errors import InstanceUnavailable, MemserveError
from memserve.core.ids import Incarnation, InstanceId
from memserve.rpc.channel import RpcServer
from memserve.rpc.event_stream import EventReader
from memserve.wire.events import Applied, BlocksStored, EventBatch, IndexEntry, SnapshotPart
from memserve.wire.identity import KvIdentity
from memserve.wire.messages import (
    AckReply,
    EventsReply,
    EventsRequest,
    PeerInfo,
    PeerMessage,
    SnapshotReply,
    SnapshotRequest,
)
from tests.fakes.waiting import Changes

ME, LIFE = InstanceId("i"), Incarnation(1)
Answer = object | MemserveError | None


def event(seq: int) -> BlocksStored:
    return BlocksStored(seq=seq, namespace=b"", tokens=b"1234", num_blocks=1, tier=Tier.DRAM)


def entry(number: int) -> IndexEntry:
    return IndexEntry(namespace=b"", at=0, tokens=bytes([number] * 4), tiers=())


class Instance:
    """Gives the answers of its script in order, then none; notes what it was asked."""

    def __init__(self, *script: Answer) -> None:
        self.script = list(script)
        self.asked: list[tuple[str, int | None]] = []
        self.changes = Changes()

    async def handle(self, message: object, _sender: bytes) -> object:
        match message:
            case EventsRequest(instance=i, incarnation=n, after_seq=seq):
                assert (i, n) == (ME, LIFE)
                self.asked.append(("events", seq))
            case SnapshotRequest(instance=i, incarnation=n, seq=seq, position=position):
                assert (i, n) == (ME, LIFE)
                self.asked.append(("snapshot", None) if seq is None else (f"snapshot {seq}", position))
        self.changes.happened()
        answer = self.script.pop(0) if self.script else None
        if answer is None:
            await asyncio.Event().wait()
        if isinstance(answer, MemserveError):
            raise answer
        return answer


class Picture:
    """A sink that takes in what follows, as the scheduler does."""

    def __init__(self) -> None:
        self.position: int | None = None
        self.applied: list[int] = []
        self.parts: list[tuple[int, bool, bool]] = []
        self.batches: list[EventBatch] = []

    def apply(self, batch: EventBatch) -> Applied:
        self.batches.append(batch)
        for told in batch.events:
            if self.position is not None and told.seq == self.position + 1:
                self.position = told.seq
                self.applied.append(told.seq)
        return Applied(position=self.position)

    def reset(self, part: SnapshotPart) -> Applied:
        self.parts.append((len(part.entries), part.is_first, part.is_last))
        self.position = part.seq if part.is_last else None
        return Applied(position=self.position)


Follow = Callable[..., "asyncio.Task[None]"]


@pytest.fixture
async def follow() -> AsyncIterator[Callable[[Instance, Picture], "asyncio.Future[None]"]]:
    servers: list[RpcServer[object]] = []
    tasks: list[asyncio.Task[None]] = []

    async def begin(instance: Instance, picture: Picture) -> None:
        server: RpcServer[object] = RpcServer("127.0.0.1", instance.handle, PeerMessage)
        await server.start()
        servers.append(server)
        identity = KvIdentity(model="m", dtype="f", engine="e", backend="b", block_size=1, block_bytes=1, num_layers=1)
        peer = PeerInfo(instance=ME, incarnation=LIFE, endpoint=server.endpoint, identity=identity)
        reader = EventReader(peer, picture, clock=SystemClock(), max_wait_s=0.3, deadline_s=0.2, retry_s=0.01)
        tasks.append(asyncio.create_task(reader.run()))

    yield lambda instance, picture: asyncio.ensure_future(begin(instance, picture))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for server in servers:
        await server.close()


async def asked(instance: Instance, count: int) -> list[tuple[str, int | None]]:
    await instance.changes.until(lambda: len(instance.asked) >= count)
    return instance.asked[:count]


EMPTY = SnapshotReply(seq=0, entries=())


async def test_it_begins_with_a_snapshot_and_goes_on_with_what_follows(follow: Follow) -> None:
    instance = Instance(
        SnapshotReply(seq=7, entries=(entry(1),)),
        EventsReply(last_seq=9, events=(event(8), event(9))),
        EventsReply(last_seq=10, events=(event(10),)),
    )
    picture = Picture()
    await follow(instance, picture)
    assert await asked(instance, 4) == [("snapshot", None), ("events", 7), ("events", 9), ("events", 10)]
    assert picture.applied == [8, 9, 10]


async def test_a_snapshot_comes_in_parts(follow: Follow) -> None:
    instance = Instance(
        SnapshotReply(seq=7, entries=(entry(1), entry(2)), next_position=2),
        SnapshotReply(seq=7, entries=(entry(3),), next_position=3),
        SnapshotReply(seq=7, entries=(entry(4),)),
    )
    picture = Picture()
    await follow(instance, picture)
    assert await asked(instance, 4) == [("snapshot", None), ("snapshot 7", 2), ("snapshot 7", 3), ("events", 7)]
    assert picture.parts == [(2, True, False), (1, False, False), (1, False, True)]


async def test_a_hole_between_events_is_asked_for_again(follow: Follow) -> None:
    instance = Instance(
        EMPTY,
        EventsReply(last_seq=3, events=(event(1), event(3))),
        EventsReply(last_seq=3, events=(event(2), event(3))),
    )
    picture = Picture()
    await follow(instance, picture)
    assert await asked(instance, 4) == [("snapshot", None), ("events", 0), ("events", 1), ("events", 3)]
    assert picture.applied == [1, 2, 3]


async def test_a_gap_that_cannot_be_filled_leads_to_a_snapshot(follow: Follow) -> None:
    instance = Instance(EMPTY, EventsReply(last_seq=99, is_gap=True), SnapshotReply(seq=99, entries=()))
    await follow(instance, Picture())
    assert await asked(instance, 4) == [("snapshot", None), ("events", 0), ("snapshot", None), ("events", 99)]


async def test_an_answer_that_never_came_is_asked_for_again(follow: Follow) -> None:
    instance = Instance(EMPTY, None)
    picture = Picture()
    await follow(instance, picture)
    assert await asked(instance, 3) == [("snapshot", None), ("events", 0), ("events", 0)]


async def test_a_refusal_is_waited_out(follow: Follow) -> None:
    instance = Instance(InstanceUnavailable("not now"), EMPTY, InstanceUnavailable("not now"))
    await follow(instance, Picture())
    assert await asked(instance, 4) == [("snapshot", None), ("snapshot", None), ("events", 0), ("events", 0)]


async def test_a_fault_is_told_as_a_batch_without_events(follow: Follow) -> None:
    instance = Instance(EMPTY, InstanceUnavailable("not now"), EventsReply(last_seq=1, events=(event(1),)))
    picture = Picture()
    await follow(instance, picture)
    await asked(instance, 4)
    assert [(len(batch.events), batch.as_of is None) for batch in picture.batches] == [(0, True), (1, False)]


async def test_a_snapshot_that_is_gone_half_way_is_begun_anew(follow: Follow) -> None:
    half = SnapshotReply(seq=7, entries=(entry(1),), next_position=1)
    instance = Instance(half, InstanceUnavailable("begin another"), EMPTY)
    await follow(instance, Picture())
    assert await asked(instance, 4) == [("snapshot", None), ("snapshot 7", 1), ("snapshot", None), ("events", 0)]


@pytest.mark.parametrize(
    "nonsense",
    [AckReply(), SnapshotReply(seq=7, entries=(), next_position=0), EventsReply(last_seq=0)],
    ids=["another reply", "a snapshot that stands still", "events instead of a snapshot"],
)
async def test_nonsense_is_survived(follow: Follow, nonsense: object) -> None:
    instance = Instance(nonsense, EMPTY)
    await follow(instance, Picture())
    assert await asked(instance, 3) == [("snapshot", None), ("snapshot", None), ("events", 0)]


async def test_an_instance_that_repeats_itself_is_not_asked_without_pause(follow: Follow) -> None:
    instance = Instance(EMPTY, *[EventsReply(last_seq=0, events=(event(0),))] * 3)
    began = asyncio.get_running_loop().time()
    await follow(instance, Picture())
    assert await asked(instance, 4) == [("snapshot", None), ("events", 0), ("events", 0), ("events", 0)]
    assert asyncio.get_running_loop().time() - began >= 0.02


async def test_only_an_answer_with_all_there_is_makes_the_picture_fresh(follow: Follow) -> None:
    instance = Instance(
        EMPTY,
        EventsReply(last_seq=2, events=(event(1),)),
        EventsReply(last_seq=2, events=(event(2),)),
        EventsReply(last_seq=2),
    )
    picture = Picture()
    began = SystemClock().now()
    await follow(instance, picture)
    await asked(instance, 5)
    assert [batch.as_of is not None for batch in picture.batches] == [False, True, True]
    assert all(batch.as_of >= began for batch in picture.batches if batch.as_of is not None)

"""Who is followed, as views come and go; the instances are RPC servers that have nothing to tell."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from memserve.cluster.view import ClusterView, InstanceState, InstanceView
from memserve.core.clock import SystemClock
from memserve.core.enums import Role
from memserve.core.errors import InvariantError
from memserve.core.ids import Epoch, Incarnation, InstanceId
from memserve.manager.event_subscriptions import EventSubscriptions
from memserve.rpc.channel import RpcServer
from memserve.wire.events import Applied, EventBatch, SnapshotPart
from memserve.wire.identity import KvIdentity
from memserve.wire.messages import EventsReply, EventsRequest, Load, PeerInfo, PeerMessage, SnapshotReply

IDENTITY = KvIdentity(model="m", dtype="f", engine="e", backend="b", block_size=32, block_bytes=64, num_layers=1)
A = InstanceId("a")


class Target:
    """Notes who was admitted and whose snapshots came."""

    def __init__(self) -> None:
        self.admitted: list[tuple[str, int, Role]] = []
        self.begun: asyncio.Queue[int] = asyncio.Queue()
        self.broken = False

    def admit(self, instance: InstanceId, incarnation: Incarnation, role: Role) -> None:
        self.admitted.append((instance, incarnation, role))

    def apply(self, batch: EventBatch) -> Applied:
        return Applied(position=0)

    def reset(self, part: SnapshotPart) -> Applied:
        self.begun.put_nowait(part.incarnation)
        if self.broken:
            raise InvariantError("a bug")
        return Applied(position=0)


class Quiet:
    """An instance without events."""

    def __init__(self) -> None:
        self.server: RpcServer[object] = RpcServer("127.0.0.1", self._answer, PeerMessage)

    async def _answer(self, message: object, _sender: bytes) -> object:
        if isinstance(message, EventsRequest):
            await asyncio.sleep(message.max_wait_s)
            return EventsReply(last_seq=0)
        return SnapshotReply(seq=0, entries=())


@asynccontextmanager
async def following(target: Target) -> AsyncIterator[tuple[EventSubscriptions, Quiet]]:
    quiet = Quiet()
    await quiet.server.start()
    subscriptions = EventSubscriptions(target, clock=SystemClock())
    try:
        async with subscriptions.running():
            yield subscriptions, quiet
    finally:
        await quiet.server.close()


def view(quiet: Quiet, *incarnations: int, state: InstanceState = InstanceState.JOINING) -> ClusterView:
    instances = [
        InstanceView(
            peer=PeerInfo(
                instance=A, incarnation=Incarnation(number), endpoint=quiet.server.endpoint, identity=IDENTITY
            ),
            role=Role.PREFILL,
            url="",
            state=state,
            load=Load(),
        )
        for number in incarnations
    ]
    return ClusterView(epoch=Epoch(1), instances=tuple(instances))


def readers() -> list["asyncio.Task[None]"]:
    return [task for task in asyncio.all_tasks() if task.get_name() == "events of a"]


async def next_begun(target: Target) -> int:
    async with asyncio.timeout(10):
        return await target.begun.get()


async def test_each_incarnation_that_joins_is_admitted_and_followed_once() -> None:
    target = Target()
    async with following(target) as (subscriptions, quiet):
        for _ in range(2):
            subscriptions.update(view(quiet, 1))
        assert await next_begun(target) == 1
        subscriptions.update(view(quiet, 1, state=InstanceState.SUSPECT))
        assert target.admitted == [("a", 1, Role.PREFILL)]
        assert len(readers()) == 1
        assert target.begun.empty()


async def test_a_new_incarnation_is_followed_instead_of_the_old_one() -> None:
    target = Target()
    async with following(target) as (subscriptions, quiet):
        subscriptions.update(view(quiet, 1))
        assert await next_begun(target) == 1
        subscriptions.update(view(quiet, 2))
        assert await next_begun(target) == 2
        assert repr(subscriptions) == "EventSubscriptions(a)"


@pytest.mark.parametrize("state", [None, InstanceState.LEFT])
async def test_who_left_is_followed_no_longer(state: InstanceState | None) -> None:
    target = Target()
    async with following(target) as (subscriptions, quiet):
        subscriptions.update(view(quiet, 1))
        await next_begun(target)
        (reader,) = readers()
        subscriptions.update(view(quiet, 1, state=state) if state else ClusterView())
        await asyncio.wait({reader}, timeout=10)
        assert reader.cancelled()
        assert repr(subscriptions) == "EventSubscriptions(nobody)"


async def test_nobody_is_followed_after_the_end() -> None:
    target = Target()
    async with following(target) as (subscriptions, quiet):
        subscriptions.update(view(quiet, 1))
        await next_begun(target)
    assert readers() == []
    subscriptions.update(view(quiet, 2))
    assert readers() == []


async def test_a_bug_with_one_instance_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    target = Target()
    target.broken = True
    with caplog.at_level(logging.WARNING):
        async with following(target) as (subscriptions, quiet):
            subscriptions.update(view(quiet, 1))
            assert await next_begun(target) == 1
            target.broken = False
            subscriptions.update(view(quiet, 2))
            assert await next_begun(target) == 2
    assert "a bug" in caplog.text

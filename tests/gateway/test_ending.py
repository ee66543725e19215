"""Scopes end with the reason they were given; work on an instance ends with the instance."""

import asyncio

import pytest

from memserve.core.enums import Role
from memserve.core.errors import DeadlineExceeded
from memserve.gateway.ending import Scope, scope
from memserve.gateway.errors import ClientGone, InstanceLost
from memserve.gateway.watch import InstanceWatch
from tests.gateway.rig import ScriptedCluster


async def test_a_scope_raises_the_first_reason_it_was_ended_for() -> None:
    async def end_twice() -> None:
        async with scope(deadline_s=60) as work:
            work.end(ClientGone("first"))
            work.end(ClientGone("second"))
            await asyncio.Event().wait()

    with pytest.raises(ClientGone, match="first"):
        await end_twice()


async def test_a_scope_that_takes_too_long_raises_deadline_exceeded() -> None:
    with pytest.raises(DeadlineExceeded, match=r"0\.01 s"):
        async with scope(deadline_s=0.01):
            await asyncio.Event().wait()


async def test_ending_a_closed_scope_does_nothing() -> None:
    async with scope() as work:
        pass
    work.end(ClientGone("late"))
    await asyncio.sleep(0)


async def test_when_both_end_the_outer_scopes_reason_wins() -> None:
    async def nested(started: "asyncio.Future[tuple[Scope, Scope]]") -> None:
        async with scope() as outer, scope() as inner:
            started.set_result((outer, inner))
            await asyncio.Event().wait()

    started: asyncio.Future[tuple[Scope, Scope]] = asyncio.get_running_loop().create_future()
    work = asyncio.create_task(nested(started))
    outer, inner = await started
    inner.end(ClientGone("inner"))
    outer.end(ClientGone("outer"))
    with pytest.raises(ClientGone, match="outer"):
        await work


async def test_a_timeout_inside_the_work_stays_what_it_is() -> None:
    with pytest.raises(TimeoutError):
        async with scope(deadline_s=60):
            raise TimeoutError


async def test_a_cancellation_from_outside_stays_a_cancellation() -> None:
    async def work() -> None:
        async with scope(deadline_s=60):
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_new_incarnation_ends_work_on_the_old_one_and_is_told_once() -> None:
    left: list[tuple[str, int]] = []
    cluster = ScriptedCluster()
    watch = InstanceWatch(lambda instance, incarnation: left.append((instance, incarnation)))
    cluster.add("c0", Role.COLOCATED, "")
    watch.update(cluster.view)

    async def work() -> None:
        async with watch.using(cluster.view.instances[0]):
            cluster.restart("c0")
            watch.update(cluster.view)
            watch.update(cluster.view)
            await asyncio.Event().wait()

    with pytest.raises(InstanceLost, match="left the cluster"):
        await work()
    assert left == [("c0", 1)]


async def test_other_changes_of_the_view_end_nothing() -> None:
    cluster = ScriptedCluster()
    watch = InstanceWatch(lambda _instance, _incarnation: None)
    cluster.add("c0", Role.COLOCATED, "")
    async with watch.using(cluster.view.instances[0]):
        cluster.add("c1", Role.COLOCATED, "")
        watch.update(cluster.view)
        cluster.remove("c1")
        watch.update(cluster.view)
        await asyncio.sleep(0)

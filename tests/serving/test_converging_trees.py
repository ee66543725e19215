"""Real pools in processes of their own, killed, muted and restarted at work: the trees become what they hold."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import msgspec
import pytest

from memserve.cluster.view import ClusterView, InstanceState
from memserve.core.clock import SystemClock
from memserve.core.enums import Role
from memserve.core.ids import Incarnation, InstanceId, RequestId
from memserve.gateway.watch import InstanceWatch
from memserve.manager.etcd_registry import registry_in_etcd
from memserve.manager.event_subscriptions import EventSubscriptions
from memserve.manager.manager import ClusterManager
from memserve.manager.own_registry import OwnRegistry
from memserve.manager.registry import RegistryMaker
from memserve.scheduler.decision import Outcome
from memserve.scheduler.event_feeds import Discard, EventKind
from memserve.scheduler.scheduler import Scheduler
from memserve.storage.shared_memory import sweep
from memserve.wire.events import Applied, EventBatch, SnapshotPart
from memserve.wire.messages import DeadInstance
from tests.etcd_server import etcd_server, needs_etcd
from tests.fakes.launching import no_restarts
from tests.fakes.waiting import Changes
from tests.serving.pool_process import BLOCK_SIZE, UNIVERSE

CLUSTER = f"converging{os.getpid()}"
PROBE = RequestId("probe")


class Pool:
    """One child process; calls block until it answers."""

    def __init__(self, manager: str, name: str, seed: int) -> None:
        self.name = InstanceId(name)
        role = name.partition("-")[0]
        argv = [sys.executable, "-m", "tests.serving.pool_process", CLUSTER, manager, name, role, str(seed)]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def begin(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def work(self, number: int) -> None:
        self.begin(f"work {number}")
        assert self.answer() == "done"

    def held(self) -> list[int]:
        self.begin("held")
        return list(json.loads(self.answer()))

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


class Listener:
    """Manager, subscriptions and scheduler as `memserve serve` wires them, without gateway or engines."""

    def __init__(self, *, port: int = 0, registry: RegistryMaker = OwnRegistry) -> None:
        self.clock = SystemClock()
        self.scheduler = Scheduler(
            block_size=BLOCK_SIZE, policy="prompt-tree", clock=self.clock, random=Random(0), confirm_s=0.0
        )
        self.watch = InstanceWatch(on_left=self.scheduler.forget)
        self.manager = ClusterManager(
            cluster=CLUSTER,
            bind="127.0.0.1",
            clock=self.clock,
            on_report=self.scheduler.answered,
            on_change=self.changed,
            launcher=no_restarts,
            registry=registry,
            port=port,
            suspect_s=1.0,
            dead_s=10.0,  # nobody who is only muted is taken for dead
        )
        self.subscriptions = EventSubscriptions(self, clock=self.clock)
        self.changes = Changes()

    def admit(self, instance: InstanceId, incarnation: Incarnation, role: Role) -> None:
        self.scheduler.admit(instance, incarnation, role)

    def apply(self, batch: EventBatch) -> Applied:
        applied = self.scheduler.apply(batch)
        self.changes.happened()
        return applied

    def reset(self, part: SnapshotPart) -> Applied:
        applied = self.scheduler.reset(part)
        self.changes.happened()
        return applied

    def changed(self, view: ClusterView, _dead: tuple[DeadInstance, ...]) -> None:
        self.subscriptions.update(view)
        self.watch.update(view)
        self.changes.happened()

    def known(self, name: InstanceId) -> list[int]:
        """Tokens of each prompt of UNIVERSE that the trees say this instance holds."""
        instance = self.manager.view.find(name)
        if instance is None:
            return []
        alone = ClusterView(instances=(msgspec.structs.replace(instance, state=InstanceState.ACTIVE),))
        found = []
        for namespace, prompt in UNIVERSE:
            decision = self.scheduler.decide(request=PROBE, tokens=prompt, namespace=namespace, view=alone)
            self.scheduler.finish(PROBE, outcome=Outcome.FAILED)
            found.append(decision.candidates[0].matched_tokens)
        return found

    async def until_known(self, *pools: Pool) -> None:
        """Until the trees say of each what it holds now; the pools must be at rest."""
        for pool in pools:
            held = await asyncio.to_thread(pool.held)
            assert any(held)
            await self.changes.until(lambda pool=pool, held=held: self.known(pool.name) == held, deadline_s=20)  # type: ignore[misc]

    def snapshots(self, pool: Pool) -> int:
        feeds = {feed.instance: feed for feed in self.scheduler.event_stats().feeds}
        return feeds[pool.name].num_events[EventKind.SNAPSHOT]


@asynccontextmanager
async def listening(*, port: int = 0, registry: RegistryMaker = OwnRegistry) -> AsyncIterator[Listener]:
    listener = Listener(port=port, registry=registry)
    async with listener.subscriptions.running():
        await listener.manager.start()
        try:
            yield listener
        finally:
            await listener.manager.stop()


@pytest.fixture
def pools() -> Iterator[list[Pool]]:
    started: list[Pool] = []
    yield started
    for pool in started:
        pool.kill()
    sweep(CLUSTER)


async def all_work(pools: list[Pool], number: int) -> None:
    await asyncio.gather(*(asyncio.to_thread(pool.work, number) for pool in pools))


async def test_trees_become_what_killed_muted_and_restarted_instances_really_hold(pools: list[Pool]) -> None:
    async with listening() as listener:
        names = ("colocated-0", "colocated-1", "prefill-0", "decode-0")
        pools += [Pool(listener.manager.endpoint, name, seed) for seed, name in enumerate(names)]
        await listener.manager.wait_ready(len(names), deadline_s=60)
        steady, lost, restarted, muted = pools
        await all_work(pools, 200)
        await listener.until_known(*pools)

        # Muted: stopped in the middle of its work, while the others go on.
        muted.begin("work 300")
        muted.process.send_signal(signal.SIGSTOP)
        await all_work([steady, lost, restarted], 200)
        muted.process.send_signal(signal.SIGCONT)
        assert await asyncio.to_thread(muted.answer) == "done"

        # Killed in the middle of its work: one for good, one to come back under its name.
        restarted.begin("work 1000000")
        lost.begin("work 1000000")
        await asyncio.to_thread(steady.work, 200)
        lost.kill()
        restarted.kill()
        again = Pool(listener.manager.endpoint, "prefill-0", 9)
        pools.append(again)
        await asyncio.to_thread(again.work, 200)

        # The listener itself stands still for longer than an instance can tell again.
        before = listener.snapshots(steady)
        steady.work(30_000)
        await listener.until_known(steady, muted, again)
        assert listener.snapshots(steady) > before
        await listener.changes.until(lambda: listener.known(lost.name) == [], deadline_s=20)

        # And loses its subscriptions for a while.
        view = listener.manager.view
        listener.subscriptions.update(ClusterView())
        await all_work([steady, muted, again], 100)
        listener.subscriptions.update(view)
        await listener.until_known(steady, muted, again)

        stats = listener.scheduler.event_stats()
        assert sorted(feed.instance for feed in stats.feeds) == ["colocated-0", "decode-0", "prefill-0"]
        assert not {Discard.UNANNOUNCED, Discard.MALFORMED} & {reason for _, reason in stats.discarded}
        assert all(feed.lag_s < 10 for feed in stats.feeds)


async def test_a_manager_that_comes_back_at_its_address_knows_within_ten_seconds_what_everybody_holds(
    pools: list[Pool],
) -> None:
    """As when the gateway's process is restarted: nothing of it is kept, the instances are."""
    names = ("colocated-0", "colocated-1", "prefill-0", "decode-0")
    async with listening() as listener:
        endpoint = listener.manager.endpoint
        pools += [Pool(endpoint, name, seed) for seed, name in enumerate(names)]
        await listener.manager.wait_ready(len(names), deadline_s=60)
        await all_work(pools, 200)
        await listener.until_known(*pools)
        before = {pool.name: listener.known(pool.name) for pool in pools}
    await all_work(pools, 5)  # nobody listens
    async with listening(port=int(endpoint.rpartition(":")[2])) as listener:
        async with asyncio.timeout(10):
            await listener.manager.wait_ready(len(names), deadline_s=10)
            await listener.until_known(*pools)
        assert listener.manager.endpoint == endpoint
        after = {pool.name: listener.known(pool.name) for pool in pools}
    assert after.keys() == before.keys()


@needs_etcd
async def test_a_gateway_that_takes_over_in_etcd_would_hit_what_the_one_before_it_hit(
    pools: list[Pool], tmp_path: Path
) -> None:
    """Anywhere: nothing of the one before is left but the members' own records."""
    async with etcd_server(tmp_path) as etcd:
        registry = registry_in_etcd(etcd.url, model="m")
        async with listening(registry=registry) as listener:
            pools += [Pool(etcd.url, name, seed) for seed, name in enumerate(("prefill-0", "decode-0"))]
            await listener.manager.wait_ready(2, deadline_s=60)
            await all_work(pools, 200)
            await listener.until_known(*pools)
            before = sum(sum(listener.known(pool.name)) for pool in pools)
        async with listening(registry=registry) as listener:
            async with asyncio.timeout(10):
                await listener.manager.wait_ready(2, deadline_s=10)
                await listener.changes.until(
                    lambda: sum(sum(listener.known(pool.name)) for pool in pools) >= 0.95 * before
                )

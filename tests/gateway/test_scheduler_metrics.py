"""What a scrape tells of the scheduler's picture of the instances."""

from random import Random

from memserve.core.clock import ManualClock
from memserve.core.enums import Role
from memserve.core.ids import Incarnation, InstanceId
from memserve.gateway.metrics import GatewayMetrics
from memserve.scheduler.scheduler import Scheduler
from memserve.wire.events import BlocksEvicted, EventBatch, SnapshotPart

A, LIFE = InstanceId("a"), Incarnation(1)


def test_lag_events_and_discards_of_each_instance_are_shown() -> None:
    clock = ManualClock()
    scheduler = Scheduler(block_size=1, policy="prompt-tree", clock=clock, random=Random(0))
    metrics = GatewayMetrics()
    metrics.follow(scheduler)
    scheduler.admit(A, LIFE, Role.DECODE)
    scheduler.reset(SnapshotPart(instance=A, incarnation=LIFE, seq=0, entries=(), is_first=True, is_last=True))
    unheard = BlocksEvicted(seq=1, namespace=b"", tokens=b"1234", num_blocks=1)
    scheduler.apply(EventBatch(instance=A, incarnation=LIFE, events=(unheard,), as_of=None))
    scheduler.apply(EventBatch(instance=InstanceId("b"), incarnation=LIFE, events=(unheard,), as_of=None))
    clock.advance(2.5)
    lines = metrics.exposition().decode().splitlines()
    assert 'memserve_scheduler_event_lag_seconds{instance="a"} 2.5' in lines
    assert 'memserve_scheduler_events_total{instance="a",kind="snapshot"} 1.0' in lines
    assert 'memserve_scheduler_events_total{instance="a",kind="evicted"} 1.0' in lines
    assert 'memserve_scheduler_event_discards_total{instance="a",reason="unannounced-eviction"} 1.0' in lines
    assert 'memserve_scheduler_event_discards_total{instance="",reason="unknown-instance"} 1.0' in lines
    scheduler.forget(A)
    assert 'instance="a"' not in metrics.exposition().decode()

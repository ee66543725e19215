"""Workers that do not know what the others send keep the instances as busy as one that knows everything, about."""

from array import array
from collections import Counter
from random import Random

import pytest

from memserve.core.clock import ManualClock
from memserve.core.enums import Role
from memserve.core.ids import RequestId
from memserve.scheduler.decision import Outcome
from memserve.scheduler.pull_policy import PullPolicy
from memserve.scheduler.scheduler import Scheduler
from tests.gateway.rig import ScriptedCluster

NUM_INSTANCES, NUM_REQUESTS, NUM_IN_FLIGHT = 4, 400, 40


def busiest_over_mean(num_workers: int, policy: str, *, seed: int) -> float:
    """Requests in flight on the busiest of four instances over the mean, on average; a worker is drawn for each."""
    cluster, clock, random = ScriptedCluster(), ManualClock(), Random(seed)
    for number in range(NUM_INSTANCES):
        cluster.add(f"c{number}", Role.COLOCATED, "")
    workers = [
        Scheduler(block_size=4, policy=policy, clock=clock, random=Random(seed + n), pulls=PullPolicy())
        for n in range(num_workers)
    ]
    busy: Counter[str] = Counter()
    flights: list[tuple[Scheduler, RequestId, str]] = []
    most = []
    for number in range(NUM_REQUESTS):
        clock.advance(0.01)
        worker, request = random.choice(workers), RequestId(str(number))
        tokens = array("i", [7] * 64 + random.choices(range(50_000), k=192)).tobytes()
        instance = worker.decide(request=request, tokens=tokens, view=cluster.view).decode
        worker.sent(request)
        busy[instance] += 1
        flights.append((worker, request, instance))
        if len(flights) > NUM_IN_FLIGHT:
            worker, request, instance = flights.pop(random.randrange(len(flights)))
            worker.prefilled(request)
            worker.finish(request, outcome=Outcome.SERVED)
            busy[instance] -= 1
            most.append(max(busy.values()) / (NUM_IN_FLIGHT / NUM_INSTANCES))
    return sum(most) / len(most)


@pytest.mark.parametrize("policy", ["least-load", "prompt-tree"])
def test_two_workers_that_choose_apart_load_instances_nearly_as_evenly_as_one(policy: str) -> None:
    one, two = (sum(busiest_over_mean(n, policy, seed=s) for s in range(3)) / 3 for n in (1, 2))
    assert two < one * 1.1

"""Seeded schedules of joins, leaves, crashes, stops, partitions and message loss, with the invariants at every step.

MEMSERVE_SCHEDULES says how many (10000 take well under a minute), MEMSERVE_FIRST_SCHEDULE which seed is the first.
"""

import os

import pytest

from tests.cluster.schedule import Schedule

NUM_SCHEDULES = int(os.environ.get("MEMSERVE_SCHEDULES", "1000"))
FIRST = int(os.environ.get("MEMSERVE_FIRST_SCHEDULE", "0"))


@pytest.mark.timeout(600)
def test_whatever_happens_the_views_converge_and_nothing_goes_to_or_stays_with_the_dead() -> None:
    num_requests = 0
    for seed in range(FIRST, FIRST + NUM_SCHEDULES):
        schedule = Schedule(seed)
        schedule.run()
        num_requests += schedule.num_requests
    assert num_requests > 10 * NUM_SCHEDULES

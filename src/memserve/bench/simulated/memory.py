"""What more memory buys, and where it is best put; and what bringing prefixes to further instances ahead of need buys.

Owns the clusters that are compared: the same instances and requests with small pools, with a memory instance beside
them that has as much again, with pools of twice the size, with a large memory instance, and with endless pools. The
last of these is also played with nothing brought anywhere ahead of need, as is a workload with one long system prompt.
"""

from collections.abc import Callable, Iterator

import msgspec

from memserve.bench.simulated.record import MemoryResult
from memserve.scheduler.cost_model import CostProfile
from memserve.simulator.result import SimulationResult
from memserve.simulator.run import Simulation
from memserve.simulator.setting import Setting
from memserve.simulator.trace import Trace

_LARGE = 4
"""Times the memory of all small pools together."""


class MemoryPlan(msgspec.Struct, frozen=True, kw_only=True):
    trace: Trace
    shared_prefix: Trace
    """Whose requests all begin with the same long prompt."""
    profile: CostProfile
    instances: int
    pool_blocks: int
    """Of each instance."""
    speed: float = 1.0
    seed: int = 0


def play_memory(plan: MemoryPlan, *, each: Callable[[MemoryResult], None] = lambda _: None) -> list[MemoryResult]:
    """`each` sees every row as it comes. Raises ConfigError for a plan that cannot be played."""
    results = []
    for cluster, trace, setting in _clusters(plan):
        results.append(_result(cluster, trace, setting, Simulation(trace, setting).run()))
        each(results[-1])
    return results


def _clusters(plan: MemoryPlan) -> Iterator[tuple[str, Trace, Setting]]:
    endless = Setting(
        policy="prompt-tree", instances=plan.instances, profile=plan.profile, speed=plan.speed, seed=plan.seed
    )
    small = msgspec.structs.replace(endless, pool_blocks=plan.pool_blocks)
    all_small = plan.instances * plan.pool_blocks
    yield "small pools", plan.trace, small
    yield "and a memory instance", plan.trace, msgspec.structs.replace(small, memory_blocks=all_small)
    yield "pools twice as large", plan.trace, msgspec.structs.replace(endless, pool_blocks=2 * plan.pool_blocks)
    yield "and a large memory instance", plan.trace, msgspec.structs.replace(small, memory_blocks=_LARGE * all_small)
    yield "endless pools", plan.trace, endless
    yield "endless pools, no replicas", plan.trace, msgspec.structs.replace(endless, max_replicas=1)
    shared = msgspec.structs.replace(endless, speed=1.0)
    yield "one system prompt", plan.shared_prefix, shared
    yield "one system prompt, no replicas", plan.shared_prefix, msgspec.structs.replace(shared, max_replicas=1)


def _result(cluster: str, trace: Trace, setting: Setting, found: SimulationResult) -> MemoryResult:
    return MemoryResult(
        cluster=cluster,
        trace=trace.name,
        requests=found.requests,
        instances=found.instances,
        pool_blocks=setting.pool_blocks,
        memory_blocks=setting.memory_blocks,
        max_replicas=setting.max_replicas,
        hit_ratio=found.hit_ratio,
        ideal_hit_ratio=found.ideal_hit_ratio,
        ttft_avg_s=found.ttft_avg_s,
        ttft_p99_s=found.ttft_p99_s,
        jct_avg_s=found.jct_avg_s,
        pull_ratio=found.pull_ratio,
        moved_bytes=found.moved_bytes,
        load_max_over_mean=found.load_max_over_mean,
    )

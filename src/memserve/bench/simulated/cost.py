"""What a million tokens costs: the fewest instances that keep the average TTFT of a trace, with and without caching.

Owns the search and the sum. The time of a GPU costs the same whether it computes or waits, so

    dollars per million tokens = instances * GPUs of each * hours * price of a GPU hour / million tokens

with all tokens of prompts and answers, those found in a cache included: they are what users pay for.
"""

import msgspec

from memserve.bench.simulated.record import CostResult
from memserve.core.enums import CachingMode
from memserve.core.errors import ConfigError
from memserve.scheduler.cost_model import CostProfile
from memserve.simulator.result import SimulationResult
from memserve.simulator.run import Simulation
from memserve.simulator.setting import Setting
from memserve.simulator.trace import Trace

_CLUSTERS = (
    (CachingMode.BASIC, "least-load"),
    (CachingMode.RETURN, "session"),
    (CachingMode.RETURN, "prompt-tree"),
)
_S_PER_HOUR = 3600.0


class CostPlan(msgspec.Struct, frozen=True, kw_only=True):
    trace: Trace
    profile: CostProfile
    ttft_s: float
    """That the average must not pass."""
    price_per_gpu_hour: float
    """Dollars."""
    gpus_per_instance: int
    most_instances: int
    speed: float = 1.0
    seed: int = 0


def play_cost(plan: CostPlan) -> list[CostResult]:
    """The smallest cluster of each kind. Raises ConfigError when even the largest does not keep the TTFT."""
    return [_result(plan, caching, _smallest(plan, caching, policy)) for caching, policy in _CLUSTERS]


def _smallest(plan: CostPlan, caching: CachingMode, policy: str) -> SimulationResult:
    """By bisection: more instances never make users wait longer."""
    best = _play(plan, caching, policy, plan.most_instances)
    if best.ttft_avg_s > plan.ttft_s:
        raise ConfigError(
            f"{plan.most_instances} instances of policy {policy} ({caching}) take {best.ttft_avg_s:.2f} s to the first "
            f"token on average and {plan.ttft_s:g} s are asked for: give more --most, a longer --ttft or less --speed"
        )
    low, high = 0, plan.most_instances
    while high - low > 1:
        middle = (low + high) // 2
        result = _play(plan, caching, policy, middle)
        if result.ttft_avg_s <= plan.ttft_s:
            best, high = result, middle
        else:
            low = middle
    return best


def _play(plan: CostPlan, caching: CachingMode, policy: str, instances: int) -> SimulationResult:
    setting = Setting(
        policy=policy,
        instances=instances,
        profile=plan.profile,
        caching=caching,
        speed=plan.speed,
        seed=plan.seed,
    )
    return Simulation(plan.trace, setting).run()


def _result(plan: CostPlan, caching: CachingMode, found: SimulationResult) -> CostResult:
    hours = found.seconds / _S_PER_HOUR
    tokens = sum(request.prompt_tokens + request.output_tokens for request in plan.trace.requests)
    dollars = found.instances * plan.gpus_per_instance * hours * plan.price_per_gpu_hour
    return CostResult(
        caching=caching,
        policy=found.policy,
        instances=found.instances,
        ttft_avg_s=found.ttft_avg_s,
        ttft_p99_s=found.ttft_p99_s,
        jct_avg_s=found.jct_avg_s,
        utilisation=found.utilisation,
        hit_ratio=found.hit_ratio,
        hours=hours,
        tokens=tokens,
        dollars_per_million_tokens=dollars / (tokens / 1e6),
    )

"""What tokens cost: the smallest cluster that keeps the TTFT, and the sum."""

import msgspec
import pytest

from memserve.bench.simulated.cost import CostPlan, play_cost
from memserve.core.enums import CachingMode
from memserve.core.errors import ConfigError
from memserve.simulator.profiles import load_profile
from memserve.simulator.trace import BLOCK_TOKENS, Trace, TraceRequest

LONG = tuple(range(12))
TRACE = Trace(
    name="a prefix that all share",
    requests=tuple(
        TraceRequest(
            at_s=number * 0.05,
            prompt_tokens=13 * BLOCK_TOKENS,
            output_tokens=8,
            blocks=(*LONG, 100 + number),
            session=str(number),
        )
        for number in range(60)
    ),
)
PLAN = CostPlan(
    trace=TRACE,
    profile=load_profile("h100-llama2-13b-tp2"),
    ttft_s=0.4,
    price_per_gpu_hour=2.0,
    gpus_per_instance=2,
    most_instances=16,
)


def test_caching_needs_fewer_instances_for_the_same_ttft() -> None:
    without, _, cached = play_cost(PLAN)

    assert (without.caching, cached.caching) == (CachingMode.BASIC, CachingMode.RETURN)
    assert cached.instances < without.instances
    assert max(without.ttft_avg_s, cached.ttft_avg_s) <= PLAN.ttft_s
    assert cached.dollars_per_million_tokens < without.dollars_per_million_tokens


def test_the_price_is_that_of_all_gpus_for_all_the_time_over_all_tokens() -> None:
    row = play_cost(PLAN)[0]

    assert row.tokens == 60 * (13 * BLOCK_TOKENS + 8)
    assert row.dollars_per_million_tokens == pytest.approx(row.instances * 2 * row.hours * 2.0 / row.tokens * 1e6)


def test_a_ttft_that_no_cluster_keeps_is_refused_with_the_numbers() -> None:
    with pytest.raises(ConfigError, match=r"2 instances .* 0\.001 s are asked for"):
        play_cost(msgspec.structs.replace(PLAN, ttft_s=0.001, most_instances=2))

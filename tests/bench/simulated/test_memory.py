"""What more memory buys: a memory instance gives back what small pools had to let go."""

from memserve.bench.simulated.memory import MemoryPlan, play_memory
from memserve.simulator.profiles import load_profile
from memserve.simulator.trace import BLOCK_TOKENS, Trace, TraceRequest
from memserve.simulator.workloads import made_up

DOCUMENTS, BLOCKS, ROUNDS = 32, 4, 4


def documents() -> Trace:
    """Each asked about in turn, round after round: none is still there when its turn comes, where only half fit."""
    requests = tuple(
        TraceRequest(
            at_s=2.0 * number,
            prompt_tokens=BLOCKS * BLOCK_TOKENS + 100,
            output_tokens=4,
            blocks=(*range(document * BLOCKS, document * BLOCKS + BLOCKS), 10_000 + number),
            session=str(number),
        )
        for number, document in enumerate([*range(DOCUMENTS)] * ROUNDS)
    )
    return Trace(name="documents", requests=requests)


def test_a_memory_instance_gives_back_what_small_pools_let_go() -> None:
    plan = MemoryPlan(
        trace=documents(),
        shared_prefix=made_up("shared-prefix"),
        profile=load_profile("h800-llama2-13b-tp2"),
        instances=2,
        pool_blocks=50,
    )
    rows = {row.cluster: row for row in play_memory(plan)}
    small, beside, large, endless = (
        rows[name] for name in ("small pools", "and a memory instance", "and a large memory instance", "endless pools")
    )
    assert small.hit_ratio <= beside.hit_ratio < large.hit_ratio <= endless.hit_ratio <= endless.ideal_hit_ratio
    assert large.hit_ratio > small.hit_ratio + 0.5 * (endless.hit_ratio - small.hit_ratio)
    assert large.ttft_avg_s < small.ttft_avg_s
    assert (small.memory_blocks, beside.memory_blocks) == (0, 100)

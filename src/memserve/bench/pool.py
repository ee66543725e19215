"""`memserve bench pool`: allocation, and putting and getting a prompt's KV, beside LMCache and a plain copy."""

from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec

from memserve.bench.child import Say, SystemChild, SystemSpec, start_all
from memserve.bench.records import Report, Row, make_report, timed_row

SYSTEMS = (
    SystemSpec(name="memserve", module="memserve_pool"),
    SystemSpec(name="lmcache", module="lmcache_pool", environment="lmcache", variables={"LMCACHE_LOG_LEVEL": "ERROR"}),
    SystemSpec(name="memcpy", module="memcpy_pool"),
)
PROMPT_BYTES = 64 << 20
_BATCH = 64
_WARM_UP_PROMPTS = 24
"""More than a pool holds: every page has been touched and eviction has begun before the first round."""
_PROMPTS_A_ROUND = 4


class PoolPlan(msgspec.Struct, frozen=True, kw_only=True):
    """How much to measure."""

    num_rounds: int = 15
    num_batches: int = 2000
    """Allocations of 64 blocks in each round."""


def run_pool(*, peers: Path, plan: PoolPlan, say: Say) -> Report:
    """Measure all; about a minute."""
    with ExitStack() as stack:
        children, missing = start_all(SYSTEMS, peers=peers)
        for child in children:
            stack.enter_context(child)
        say(f"put and get of {PROMPT_BYTES >> 20} MiB: {len(children)} systems")
        rows = measure_pools(children, plan=plan)
    return make_report("pool", results=rows, missing=missing)


def measure_pools(children: Sequence[SystemChild], *, plan: PoolPlan) -> list[Row]:
    """Rounds of all systems in turn, on pools that are full."""
    for child in children:
        child.ask("put", count=_WARM_UP_PROMPTS)
    times: dict[tuple[str, str], list[int]] = defaultdict(list)
    for _ in range(plan.num_rounds):
        for child in children:
            name = child.spec.name
            spent = {"put": child.ask("put", count=_PROMPTS_A_ROUND), "get": child.ask("get", count=_PROMPTS_A_ROUND)}
            if name == "memserve":
                spent["alloc_free"] = child.ask("alloc_free", count=plan.num_batches)
            for operation, these in spent.items():
                times[name, operation] += these
    by_name = {child.spec.name: child for child in children}
    return [_row(by_name[name], operation, spent) for (name, operation), spent in times.items()]


def _row(child: SystemChild, operation: str, times: Sequence[int]) -> Row:
    row = Row(system=child.spec.name, version=child.version, operation=operation, path="dram")
    if operation == "alloc_free":
        return timed_row(times, msgspec.structs.replace(row, blocks=_BATCH))
    return timed_row(times, msgspec.structs.replace(row, size_bytes=PROMPT_BYTES, blocks=1), num_bytes=PROMPT_BYTES)

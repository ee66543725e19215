"""The prompts of a trace through one pool, without time: hit ratio by eviction policy and capacity.

Owns the comparison with the offline optimum. The policies run in the real pool ledger. The optimum is Belady's:
it knows the future and lets go of the block whose next use is farthest away. A prefix is used whenever what
follows it is, so it also keeps whole prefixes, as the pool must.
"""

from collections.abc import Sequence
from heapq import heappop, heappush

import msgspec

from memserve.core.clock import ManualClock
from memserve.core.errors import ConfigError
from memserve.simulator.pool import PromptPool
from memserve.simulator.trace import Trace, ideal_hit_ratio, num_leading

BELADY = "belady"
"""Name of the offline optimum among the policies."""


class CacheResult(msgspec.Struct, frozen=True, kw_only=True):
    policy: str
    capacity_blocks: int
    hit_ratio: float
    """Share of all prompt blocks that were held when they were asked for, in one pool for everyone."""
    ideal_hit_ratio: float
    """The same without a bound."""


def replay(trace: Trace, *, policy: str, capacity_blocks: int) -> CacheResult:
    """One pass over the trace. Raises ConfigError for an unknown policy or a capacity below 1."""
    if capacity_blocks < 1:
        raise ConfigError(f"a cache of {capacity_blocks} blocks holds nothing: give at least 1")
    if policy == BELADY:
        num_hits = belady_hits([request.blocks for request in trace.requests], capacity_blocks)
    else:
        num_hits = _pool_hits(trace, policy, capacity_blocks)
    return CacheResult(
        policy=policy,
        capacity_blocks=capacity_blocks,
        hit_ratio=num_hits / trace.num_blocks,
        ideal_hit_ratio=ideal_hit_ratio(trace),
    )


def belady_hits(prompts: Sequence[Sequence[int]], capacity: int) -> int:
    """Blocks found by a cache that knows the future; leading ones without a gap count, as everywhere."""
    uses = [(number, depth) for number, prompt in enumerate(prompts) for depth in range(len(prompt))]
    next_use: list[list[int]] = [[0] * len(prompt) for prompt in prompts]
    following: dict[int, int] = {}
    for number, depth in reversed(uses):
        block = prompts[number][depth]
        next_use[number][depth] = following.get(block, len(prompts))
        following[block] = number
    held: dict[int, tuple[int, int]] = {}
    farthest: list[tuple[int, int, int]] = []
    num_hits = 0
    for prompt, nexts in zip(prompts, next_use, strict=True):
        num_hits += num_leading(prompt, set(prompt) & held.keys())
        for depth, (block, at) in enumerate(zip(prompt, nexts, strict=True)):
            held[block] = (at, depth)
            heappush(farthest, (-at, -depth, block))
        while len(held) > capacity:
            at, depth, block = heappop(farthest)
            if held.get(block) == (-at, -depth):
                del held[block]
    return num_hits


def _pool_hits(trace: Trace, policy: str, capacity: int) -> int:
    pool = PromptPool(num_blocks=capacity, eviction=policy, clock=ManualClock(), block_tokens=trace.block_tokens)
    num_hits = 0
    for request in trace.requests:
        num_hits += pool.store(request.blocks)
        pool.take_events()
    return num_hits

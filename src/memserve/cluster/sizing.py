"""How many instances keep a target, told from how fast the present ones are. Pure formulas, no state.

Prompts: instances are queues of one server each. With a share `busy` of its time in use, an M/M/1 queue takes
1 / (1 - busy) times as long as an idle one; with m instead of n instances the share is busy * n / m. By Little's
law there are never fewer prompts in work than servers in use, so their mean number bounds `busy` from above.

Answers: a token takes `fastest` plus what the others of the batch, and the prompts between, add; what they add
goes as the load of an instance, with n / m.
"""

from math import ceil

import msgspec

from memserve.cluster.service_levels import Levels, Targets

ROOMY = 0.6
"""An instance is given up only if those that are left would still take at most this share of each target."""

_MOST_BUSY = 0.85
"""Of an instance's time: beyond it a queue grows without bound at the next burst."""
_LEAST_BUSY = 0.3
"""However tight a target is: where instances are used less, further ones change nothing."""
_SATURATED = 0.95
"""What cannot be told apart from more."""
_LEAST_ADDED = 0.1
"""Of the target for a token: what others may add to it, however long it takes alone."""
_MOST_AT_ONCE = 2
"""Times as many: what a cluster that is overrun tells of itself does not reach further."""


class Need(msgspec.Struct, frozen=True, kw_only=True):
    """Instances for one of the two targets; whole numbers, from 0 on."""

    at_least: int = 0
    """Fewer would miss it."""
    at_most: int = 0
    """More are not needed to keep it with room to spare; never below `at_least`."""
    why: str = ""
    """The numbers, in words; "" when there are none."""


def for_prompts(levels: Levels, targets: Targets, num_instances: int) -> Need:
    """To keep the time to the first token, from what `num_instances` do now."""
    if not levels.num_requests or not num_instances:
        return Need()
    busy = min(levels.num_prompts / num_instances, _SATURATED)
    alone_s = (1 - busy) * levels.ttft_s

    def needed(allowed_s: float) -> int:
        may_use = min(max(1 - alone_s / allowed_s, _LEAST_BUSY), _MOST_BUSY)
        return min(ceil(busy * num_instances / may_use), _MOST_AT_ONCE * num_instances)

    why = (
        f"{targets.share:.0%} of {levels.num_requests} first tokens within {levels.ttft_s:.2f} s "
        f"(target {targets.ttft_s:g} s), {levels.num_prompts:.2f} prompts in work on {num_instances}"
    )
    return Need(at_least=needed(targets.ttft_s), at_most=needed(ROOMY * targets.ttft_s), why=why)


def for_answers(levels: Levels, targets: Targets, num_instances: int) -> Need:
    """To keep the time per output token, from what `num_instances` do now."""
    if not levels.num_answers or not num_instances:
        return Need()
    added_s = levels.tpot_s - levels.fastest_tpot_s

    def needed(allowed_s: float) -> int:
        may_add_s = max(allowed_s - levels.fastest_tpot_s, _LEAST_ADDED * allowed_s)
        return min(ceil(num_instances * added_s / may_add_s), _MOST_AT_ONCE * num_instances)

    why = (
        f"{targets.share:.0%} of {levels.num_answers} answers within {levels.tpot_s * 1000:.0f} ms a token "
        f"(target {targets.tpot_s * 1000:g} ms, {levels.fastest_tpot_s * 1000:.0f} ms at best) on {num_instances}"
    )
    return Need(at_least=needed(targets.tpot_s), at_most=needed(ROOMY * targets.tpot_s), why=why)

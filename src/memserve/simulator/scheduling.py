"""The real scheduler for one simulated run, with what a calibration would have told it. Owns nothing."""

from random import Random

import msgspec

from memserve.core.clock import Clock
from memserve.scheduler.cost_model import CostProfile
from memserve.scheduler.pull_policy import PullPolicy
from memserve.scheduler.scheduler import Scheduler
from memserve.simulator.links import PEER
from memserve.simulator.setting import Setting


def new_scheduler(setting: Setting, clock: Clock, *, block_tokens: int) -> Scheduler:
    """As the gateway of a calibrated cluster has it."""
    return Scheduler(
        block_size=block_tokens,
        policy=setting.policy,
        clock=clock,
        random=Random(setting.seed),  # noqa: S311 - chooses among equals, keeps no secret
        ttl_s=setting.ttl_s,
        confirm_s=setting.confirm_s,
        caching=setting.caching,
        pulls=_pulls(setting.profile),
        max_replicas=setting.max_replicas,
    )


def _pulls(profile: CostProfile) -> PullPolicy:
    """What a calibration would tell: cached tokens are loaded from host memory before they are read."""
    load_s = profile.kv_bytes_per_token / profile.paths["dram"].bytes_per_s
    prefill = msgspec.structs.replace(profile.prefill, per_cached_token_s=profile.prefill.per_cached_token_s + load_s)
    return PullPolicy(
        prefill=prefill,
        decode=profile.decode,
        path=profile.paths[PEER],
        kv_capacity_tokens=profile.kv_capacity_tokens,
    )

"""A scheduler from the settings of a run and from what its instances are; every process of a gateway makes one.

Owns what has to be known for it (RoutingFacts), which a further worker is told instead of finding it out.
"""

from random import Random

import msgspec

from memserve.cluster.view import ClusterView
from memserve.config import ServeConfig
from memserve.core.clock import Clock
from memserve.core.errors import InstanceUnavailable
from memserve.scheduler.cost_model import CostProfile
from memserve.scheduler.pull_policy import PullPolicy
from memserve.scheduler.scheduler import Scheduler
from memserve.serving.prepare import PreparedRun
from memserve.serving.profiles import PEER_PATH, profile_for, profile_identity


class RoutingFacts(msgspec.Struct, frozen=True, kw_only=True):
    block_size: int
    """In tokens, as the engines chose it."""
    profile: CostProfile | None = None
    """What was calibrated for this engine on this machine; None: what is assumed until it is seen."""


def routing_facts(run: PreparedRun, view: ClusterView) -> RoutingFacts:
    """Raises InstanceUnavailable unless the instances have blocks of one size, ConfigError as profile_for."""
    sizes = {instance.peer.identity.block_size for instance in view.active()}
    if len(sizes) != 1:
        raise InstanceUnavailable(
            f"the instances' block sizes are {sorted(sizes)} tokens; they must be one and the same"
        )
    instance = next(iter(view.active()))
    identity = profile_identity(instance.peer.identity, machine=run.machine.name)
    profile = profile_for(identity, named=run.config.cluster.profile, cache=run.cache)
    return RoutingFacts(block_size=sizes.pop(), profile=profile)


def make_scheduler(config: ServeConfig, facts: RoutingFacts, clock: Clock) -> Scheduler:
    return Scheduler(
        block_size=facts.block_size,
        policy=config.cluster.policy,
        clock=clock,
        random=Random(),  # noqa: S311 - chooses among equals, keeps no secret
        caching=config.cluster.caching,
        pulls=_pulls(facts.profile),
    )


def _pulls(profile: CostProfile | None) -> PullPolicy:
    if profile is None:
        return PullPolicy()
    return PullPolicy(
        prefill=profile.prefill,
        decode=profile.decode,
        path=profile.paths[PEER_PATH],
        kv_capacity_tokens=profile.kv_capacity_tokens,
    )

"""What a simulated run is asked for: policy, cluster, profile. Owns the checks and the view of the made-up cluster."""

import re

import msgspec

from memserve.cluster.view import ClusterView, InstanceState, InstanceView
from memserve.core.enums import SERVING_ROLES, CachingMode, Role
from memserve.core.errors import ConfigError
from memserve.core.ids import Epoch, Incarnation, InstanceId
from memserve.pool.eviction import eviction_policy
from memserve.scheduler.cost_model import CostProfile
from memserve.scheduler.policies import find_policy
from memserve.scheduler.weighing import MAX_REPLICAS
from memserve.simulator.trace import Trace
from memserve.wire.identity import KvIdentity
from memserve.wire.messages import Load, PeerInfo

INCARNATION = Incarnation(1)
MEMORY_INSTANCE = InstanceId("memory")

LAYOUTS = ("colocated", "flexible", "disaggregated")
"""By name, for any number of instances; the last one is half prefill, half decode. "3p1d" and "1p1d2c" work, too."""

_COUNTED = re.compile(r"(\d+)p(\d+)d(?:(\d+)c)?")


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One run."""

    policy: str
    instances: int
    profile: CostProfile
    layout: str = "colocated"
    """Which roles the instances have, see LAYOUTS."""
    caching: CachingMode = CachingMode.RETURN
    pool_blocks: int | None = None
    """Of each instance, blocks as the trace has them; None: so many that nothing is evicted."""
    eviction: str = "lru"
    memory_blocks: int = 0
    """Of a memory instance beside the others; 0: there is none."""
    max_replicas: int = MAX_REPLICAS
    """To so many instances a prefix that is asked for often is brought ahead of need; 1: to none but its holder."""
    ttl_s: float = 600.0
    """How long the scheduler believes what it was not told again."""
    confirm_s: float = 30.0
    """How long it believes what a response told, until the instance's own events confirm it."""
    speed: float = 1.0
    """Requests come this many times as fast as in the trace."""
    seed: int = 0


def check_setting(trace: Trace, setting: Setting) -> None:
    """Raises ConfigError, with the numbers, for a run that cannot be."""
    find_policy(setting.policy)
    eviction_policy(setting.eviction)
    if setting.instances < 1 or min(setting.speed, setting.ttl_s, setting.confirm_s) <= 0:
        raise ConfigError(
            f"{setting.instances} instances at speed {setting.speed} with a TTL of {setting.ttl_s} s "
            f"and {setting.confirm_s} s to confirm: give at least 1 instance and the others above 0"
        )
    roles(setting)
    if setting.pool_blocks is not None and setting.pool_blocks < 1:
        raise ConfigError(f"a pool of {setting.pool_blocks} blocks holds nothing: give at least 1")
    if setting.memory_blocks < 0 or setting.max_replicas < 1:
        raise ConfigError(
            f"a memory instance of {setting.memory_blocks} blocks and {setting.max_replicas} replicas: "
            "give 0 blocks or more, and 1 replica or more"
        )
    missing = {"dram", "peer"} - setting.profile.paths.keys()
    if missing:
        raise ConfigError(f"the cost profile has no path {' and no path '.join(sorted(missing))}: calibrate again")
    longest = max(request.prompt_tokens + request.output_tokens for request in trace.requests)
    capacity = setting.profile.kv_capacity_tokens
    if longest > capacity:
        raise ConfigError(
            f"the longest request of {trace.name} has {longest} tokens and an instance of "
            f"{setting.profile.identity.machine} holds the KV of {capacity}: choose another profile or a shorter trace"
        )


def roles(setting: Setting) -> list[Role]:
    """Of each instance. Raises ConfigError for a layout that there is not, or not with so many instances."""
    count = setting.instances
    match setting.layout:
        case "colocated":
            return [Role.COLOCATED] * count
        case "flexible":
            return [Role.FLEXIBLE] * count
        case "disaggregated" if count >= 2:
            return [Role.PREFILL] * (count // 2) + [Role.DECODE] * (count - count // 2)
    found = _COUNTED.fullmatch(setting.layout)
    if found is None:
        raise ConfigError(
            f'layout "{setting.layout}" with {count} instances: choose one of {", ".join(LAYOUTS)} '
            "(the last one from 2 instances on), or count them as in 3p1d or 1p1d2c"
        )
    prefill, decode, colocated = (int(number or 0) for number in found.groups())
    if prefill + decode + colocated != count or bool(prefill) != bool(decode):
        raise ConfigError(
            f'layout "{setting.layout}" names {prefill + decode + colocated} of {count} instances: '
            "name as many as there are, and prefill and decode ones only together"
        )
    return [Role.PREFILL] * prefill + [Role.DECODE] * decode + [Role.COLOCATED] * colocated


def keeps_kv(role: Role, caching: CachingMode) -> bool:
    """Whether an instance of this role caches in this mode."""
    if role is Role.DECODE:
        return caching in {CachingMode.BOTH, CachingMode.RETURN}
    return caching is not CachingMode.BASIC


def cluster_view(setting: Setting, *, block_tokens: int) -> ClusterView:
    """All instances of the run, ready to serve."""
    names = [(InstanceId(f"i{number}"), role) for number, role in enumerate(roles(setting))]
    if setting.memory_blocks:
        names.append((MEMORY_INSTANCE, Role.MEMORY))
    instances = (instance_view(name, role, setting.profile, block_tokens=block_tokens) for name, role in names)
    return ClusterView(epoch=Epoch(1), instances=tuple(instances))


def instance_view(name: InstanceId, role: Role, profile: CostProfile, *, block_tokens: int) -> InstanceView:
    """Ready to serve; its engine can play every role."""
    identity = KvIdentity(
        model=profile.identity.model,
        dtype="modelled",
        engine=profile.identity.engine,
        backend="modelled",
        block_size=block_tokens,
        block_bytes=block_tokens * profile.kv_bytes_per_token,
        num_layers=1,
    )
    peer = PeerInfo(instance=name, incarnation=INCARNATION, endpoint="modelled", identity=identity)
    return InstanceView(
        peer=peer, role=role, url="modelled", state=InstanceState.ACTIVE, load=Load(), can_play=SERVING_ROLES
    )

"""What scaling means for a cluster as it is: which roles are started, who goes, what is refused."""

import pytest

from memserve.cluster.elasticity import MAX_INSTANCES, scale_steps
from memserve.cluster.view import ClusterView, InstanceState, InstanceView
from memserve.core.enums import Role, Tier
from memserve.core.errors import ConfigError
from memserve.core.ids import Incarnation, InstanceId
from memserve.wire.identity import KvIdentity
from memserve.wire.messages import Load, PeerInfo, TierStats

IDENTITY = KvIdentity(model="m", dtype="f", engine="e", backend="b", block_size=32, block_bytes=64, num_layers=1)
PREFILL, DECODE = Role.PREFILL, Role.DECODE


def instance(
    name: str, *, state: InstanceState = InstanceState.ACTIVE, running: int = 0, cached: int = 0
) -> InstanceView:
    peer = PeerInfo(instance=InstanceId(name), incarnation=Incarnation(1), endpoint="tcp://x:1", identity=IDENTITY)
    tier = TierStats(tier=Tier.DRAM, num_blocks=9, num_free=0, num_reserved=0, num_cached=cached, num_leased=0)
    load = Load(num_running=running, pool=(tier,))
    return InstanceView(peer=peer, role=Role(name.partition("-")[0]), url="", state=state, load=load)


def view(*instances: InstanceView) -> ClusterView:
    return ClusterView(instances=instances)


PAIR = view(instance("prefill-0"), instance("decode-0"))


def test_what_lacks_is_started_and_what_is_not_named_stays() -> None:
    steps = scale_steps(PAIR, {PREFILL: 3}, starting={})
    assert (steps.start, steps.drain) == ((PREFILL, PREFILL), ())


def test_those_that_are_starting_already_count() -> None:
    steps = scale_steps(PAIR, {PREFILL: 3}, starting={PREFILL: 2})
    assert (steps.start, steps.drain) == ((), ())


def test_those_that_are_going_already_do_not_count() -> None:
    leaving = instance("decode-1", state=InstanceState.DRAINING)
    steps = scale_steps(view(*PAIR.instances, leaving), {DECODE: 2}, starting={})
    assert (steps.start, steps.drain) == ((DECODE,), ())


def test_the_numbers_that_are_there_mean_nothing_to_do() -> None:
    steps = scale_steps(PAIR, {PREFILL: 1, DECODE: 1}, starting={})
    assert (steps.start, steps.drain) == ((), ())


def test_those_with_the_least_to_lose_go_first() -> None:
    many = view(
        instance("decode-0", running=2),
        instance("decode-1", cached=5),
        instance("decode-2", cached=1),
        instance("decode-3", running=9, state=InstanceState.JOINING),
    )
    assert scale_steps(many, {DECODE: 1}, starting={}).drain == ("decode-3", "decode-2", "decode-1")


@pytest.mark.parametrize("number", [-1, MAX_INSTANCES + 1, 10**6])
def test_numbers_that_cannot_be_are_refused(number: int) -> None:
    with pytest.raises(ConfigError, match=f"decode={number}: the number of instances is from 0 to {MAX_INSTANCES}"):
        scale_steps(PAIR, {PREFILL: 2, DECODE: number}, starting={})


def test_a_role_is_not_scaled_away() -> None:
    with pytest.raises(ConfigError, match="decode=0 would leave no decode instance"):
        scale_steps(PAIR, {DECODE: 0}, starting={})
    assert scale_steps(PAIR, {Role.COLOCATED: 0}, starting={}).drain == ()


def test_all_memory_instances_may_go() -> None:
    assert scale_steps(view(instance("memory-0")), {Role.MEMORY: 0}, starting={}).drain == ("memory-0",)

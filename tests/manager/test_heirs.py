"""Who takes over what is cached where an instance goes."""

import pytest

from memserve.cluster.view import ClusterView, InstanceState, InstanceView
from memserve.core.enums import Role, Tier
from memserve.core.ids import Epoch, Incarnation, InstanceId
from memserve.manager.drain import heirs_of
from memserve.wire.identity import KvIdentity
from memserve.wire.messages import Load, PeerInfo, TierStats

IDENTITY = KvIdentity(model="m", dtype="f", engine="e", backend="b", block_size=32, block_bytes=64, num_layers=1)
ROOM = TierStats(tier=Tier.DRAM, num_blocks=10, num_free=10, num_reserved=0, num_cached=0, num_leased=0)


def instance(name: str) -> InstanceView:
    peer = PeerInfo(instance=InstanceId(name), incarnation=Incarnation(1), endpoint="tcp://x:1", identity=IDENTITY)
    role = Role(name.partition("-")[0])
    return InstanceView(peer=peer, role=role, url="", state=InstanceState.ACTIVE, load=Load(pool=(ROOM,)))


ALL = tuple(map(instance, ("decode-0", "memory-0", "memory-1", "prefill-0", "prefill-1")))


@pytest.mark.parametrize(
    ("goes", "heirs"),
    [
        ("prefill-0", {"prefill-1", "memory-0", "memory-1"}),
        ("decode-0", {"memory-0", "memory-1"}),
        ("memory-0", {"decode-0", "memory-1", "prefill-0", "prefill-1"}),
    ],
)
def test_heirs_are_of_the_same_role_or_memory_instances_and_anybody_after_a_memory_instance(
    goes: str, heirs: set[str]
) -> None:
    view = ClusterView(epoch=Epoch(1), instances=ALL)
    found = tuple(heirs_of(instance(goes), view))
    assert {heir.peer.instance for heir in found} == heirs
    assert {heir.max_tokens for heir in found} == {ROOM.num_free * IDENTITY.block_size}

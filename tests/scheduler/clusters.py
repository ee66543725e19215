"""Views of made-up clusters for the scheduler's tests."""

from memserve.cluster.view import ClusterView, InstanceState, InstanceView
from memserve.core.enums import Role
from memserve.core.ids import Epoch, Incarnation, InstanceId
from memserve.wire.identity import KvIdentity
from memserve.wire.messages import Load, PeerInfo

IDENTITY = KvIdentity(
    model="m", dtype="float32", engine="vllm-0.32.0", backend="cpu", block_size=4, block_bytes=64, num_layers=2
)


def instance(name: str, role: Role, state: InstanceState = InstanceState.ACTIVE) -> InstanceView:
    peer = PeerInfo(instance=InstanceId(name), incarnation=Incarnation(1), endpoint="tcp://x:1", identity=IDENTITY)
    return InstanceView(peer=peer, role=role, url="http://x", state=state, load=Load())


def view(*instances: InstanceView, epoch: int = 1) -> ClusterView:
    return ClusterView(epoch=Epoch(epoch), instances=instances)


def disaggregated(num_prefill: int, num_decode: int) -> ClusterView:
    prefills = [instance(f"p{i}", Role.PREFILL) for i in range(num_prefill)]
    return view(*prefills, *[instance(f"d{i}", Role.DECODE) for i in range(num_decode)])


def colocated(count: int) -> ClusterView:
    return view(*[instance(f"c{i}", Role.COLOCATED) for i in range(count)])


def flexible(count: int) -> ClusterView:
    return view(*[instance(f"f{i}", Role.FLEXIBLE) for i in range(count)])

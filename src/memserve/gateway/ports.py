"""What the gateway needs from its neighbours, as narrow as it uses them.

Owns no behaviour. The Scheduler and the ClusterManager fit as they are; tests bring their own.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from memserve.cluster.view import ClusterView
from memserve.core.enums import Role
from memserve.core.ids import Incarnation, InstanceId, PinId, RequestId
from memserve.manager.operations import Operation, Operations
from memserve.wire.identity import Namespace
from memserve.wire.messages import PathCheck, PeerInfo, PeerPath, Pinned, ResizeReply


class Membership(Protocol):
    """The cluster manager as the gateway sees it."""

    @property
    def view(self) -> ClusterView: ...

    @property
    def path_checks(self) -> tuple[PathCheck, ...]:
        """How a block got from one instance to another by each path."""
        ...

    @property
    def failures(self) -> tuple[str, ...]:
        """Instances that should serve and do not, in words: why, and what becomes of them."""
        ...

    @property
    def endpoint(self) -> str:
        """Where instances join."""
        ...

    def request_failed(self, instance: InstanceId, incarnation: Incarnation, why: str) -> None:
        """A request met a fault at this instance; the manager looks into it. Never blocks."""
        ...


class ElasticCluster(Protocol):
    """What changes the cluster; each raises ConfigError with the reason, and nothing is changed then.

    InstanceUnavailable says that nothing can be changed now, as it cannot be made known to the other gateways.
    """

    @property
    def operations(self) -> Operations: ...

    async def drain(self, instance: InstanceId) -> Operation: ...

    async def scale(self, wanted: Mapping[Role, int]) -> tuple[Operation, ...]: ...

    async def change_role(self, instance: InstanceId, role: Role) -> Operation: ...


class PromptTokenizer(Protocol):
    async def tokens(self, *, path: str, body: Mapping[str, Any]) -> bytes:
        """The prompt's tokens as little-endian int32; b"" when they cannot be told. Never raises."""
        ...


class ReleaseClient(Protocol):
    async def release(self, *, endpoint: str, request: RequestId, deadline_s: float) -> None:
        """Tell the agent at `endpoint` that nobody will ask for what it holds for `request`.

        Raises MemserveError when it cannot be told; a lease then ends it.
        """
        ...


class PoolControl(Protocol):
    """The pools of the instances, as an operator changes them. All raise what the instance answers, and
    InstanceUnavailable when it does not."""

    async def resize(self, peer: PeerInfo, *, num_bytes: int) -> ResizeReply:
        """Grow or shrink its DRAM tier."""
        ...

    async def pin(self, peer: PeerInfo, *, tokens: bytes, namespace: Namespace) -> Pinned:
        """Have it spare what it holds of this prompt; with 0 blocks it holds nothing."""
        ...

    async def unpin(self, peer: PeerInfo, *, pin: PinId) -> bool:
        """False when it has no such pin."""
        ...

    async def pins(self, peer: PeerInfo) -> tuple[Pinned, ...]:
        """All that it has."""
        ...

    async def paths(self, peer: PeerInfo, *, others: tuple[PeerInfo, ...]) -> tuple[PeerPath, ...]:
        """By which ways bytes go between it and each of the others."""
        ...

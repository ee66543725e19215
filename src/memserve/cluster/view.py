"""What the cluster is at one moment: immutable, numbered, handed to whoever routes or talks.

Owned by membership; readers keep a reference and never change it.
"""

from enum import StrEnum
from functools import cached_property

import msgspec

from memserve.core.enums import SERVING_ROLES, Role
from memserve.core.ids import Epoch, Incarnation, InstanceId
from memserve.wire.messages import Load, PeerInfo


class InstanceState(StrEnum):
    JOINING = "joining"
    """Known, not yet serving."""
    ACTIVE = "active"
    SUSPECT = "suspect"
    """Silent for longer than it should be; gets no new requests."""
    DRAINING = "draining"
    """Finishes what it has, hands its cache on and leaves; gets no new requests."""
    LEFT = "left"


class InstanceView(msgspec.Struct, frozen=True, kw_only=True):
    peer: PeerInfo
    role: Role
    url: str
    state: InstanceState
    load: Load
    can_play: tuple[Role, ...] = ()
    """Roles that it can change to while it runs."""

    @property
    def instance(self) -> InstanceId:
        return self.peer.instance

    @property
    def incarnation(self) -> Incarnation:
        return self.peer.incarnation


class ClusterView(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """All instances that are not LEFT."""

    epoch: Epoch = Epoch(0)
    instances: tuple[InstanceView, ...] = ()

    def active(self, *roles: Role) -> tuple[InstanceView, ...]:
        """Those that may get requests, of these roles; of any role when none is given."""
        return tuple(i for i in self.instances if i.state is InstanceState.ACTIVE and (not roles or i.role in roles))

    def find(self, instance: InstanceId) -> InstanceView | None:
        return self._by_name.get(instance)

    @cached_property
    def num_answering(self) -> int:
        """Active instances that produce answers; those that compute prompts, where nobody else is left."""
        serving = self.active(*SERVING_ROLES)
        return sum(i.role is not Role.PREFILL for i in serving) or len(serving)

    @cached_property
    def _by_name(self) -> dict[InstanceId, InstanceView]:
        """Every routing decision looks instances up."""
        return {i.instance: i for i in self.instances}

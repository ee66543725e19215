"""Registry: where it is written down who belongs to the cluster, as the cluster manager uses it. Owns no behaviour.

A registry turns what it hears of instances into facts for membership, and makes known to everybody what this
manager has decided. In the gateway's own one (own_registry.py) instances tell the manager everything directly; in
etcd (etcd_registry.py) several gateways share one cluster.
"""

from collections.abc import Callable
from typing import Protocol

import msgspec

from memserve.cluster.events import DrainAsked, Event, RoleAsked
from memserve.cluster.membership import Membership
from memserve.core.ids import Incarnation, InstanceId
from memserve.manager.desk import Desk

Tell = Callable[[Event], None]
"""Hands a fact to membership and has its effects performed; what it raises refuses the fact."""


class RegistryStats(msgspec.Struct, frozen=True, kw_only=True):
    is_up: bool
    """What happens to members is told."""
    num_outages: int = 0
    """Since this gateway started."""


class ActingScaler(msgspec.Struct, frozen=True, kw_only=True):
    """Whose autoscaler changes the cluster, where several gateways have one."""

    is_here: bool
    """This gateway's does, at this moment."""
    manager: str = ""
    """Endpoint of the manager whose does; "" where a gateway has the cluster to itself, or nobody can tell."""


ALONE = ActingScaler(is_here=True)


class Registry(Protocol):
    """On the manager's event loop: start -> serving -> close."""

    @property
    def join(self) -> str:
        """What instances are given to join."""
        ...

    @property
    def is_hearing(self) -> bool:
        """An instance that lives would be heard of: only then does silence count."""
        ...

    @property
    def acting_scaler(self) -> ActingScaler:
        """Never here in two gateways at once."""
        ...

    def stats(self) -> RegistryStats: ...

    async def start(self) -> None:
        """Begin to tell facts. Raises ConfigError when that cannot be."""
        ...

    async def agree(self, asked: DrainAsked | RoleAsked) -> None:
        """Have it happen, for every manager of the cluster.

        Raises ConfigError with the reason when it must not be, RegistryUnavailable when it cannot be made known.
        """
        ...

    async def dismiss(self, instance: InstanceId, incarnation: Incarnation) -> None:
        """Make known that it is wanted no more: it is to end by itself. Raises RegistryUnavailable."""
        ...

    def gone(self, instance: InstanceId, incarnation: Incarnation) -> None:
        """Its process was of this manager and has ended: the others need not wait for its silence."""
        ...

    async def close(self) -> None:
        """Idempotent."""
        ...


RegistryMaker = Callable[[Desk, Membership, Tell], Registry]

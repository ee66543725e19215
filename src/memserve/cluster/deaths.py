"""Who died when, in epochs of the view: what a member still has to be told. Owns the list, decides nothing."""

from collections import deque

import msgspec

from memserve.core.ids import Epoch, Incarnation, InstanceId
from memserve.wire.messages import DeadInstance

_REMEMBERED = 256
"""Older ones are learnt from the expiry of their leases."""


class _Death(msgspec.Struct, frozen=True, kw_only=True):
    epoch: Epoch
    dead: DeadInstance


class Deaths:
    """The latest deaths of one cluster."""

    def __init__(self) -> None:
        self._deaths: deque[_Death] = deque(maxlen=_REMEMBERED)

    def add(self, instance: InstanceId, incarnation: Incarnation, *, epoch: Epoch) -> None:
        """It is out of the views from `epoch` on."""
        self._deaths.append(_Death(epoch=epoch, dead=DeadInstance(instance=instance, incarnation=incarnation)))

    def since(self, epoch: Epoch) -> tuple[DeadInstance, ...]:
        """Those after the view of `epoch`, oldest first."""
        return tuple(death.dead for death in self._deaths if death.epoch > epoch)

    def __repr__(self) -> str:
        return f"Deaths({len(self._deaths)})"

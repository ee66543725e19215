"""A request between decide and finish: what was asked, where it went, what it may teach.

Owns the shapes only; the Scheduler replaces one flight by the next as things happen.
"""

import msgspec

from memserve.core.enums import Role
from memserve.core.ids import InstanceId
from memserve.scheduler.tokens import TOKEN_BYTES
from memserve.wire.identity import Namespace


class Place(msgspec.Struct, frozen=True, kw_only=True):
    instance: InstanceId
    role: Role


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt and where it belongs."""

    data: bytes
    namespace: Namespace
    session: str

    @property
    def num_tokens(self) -> int:
        return len(self.data) // TOKEN_BYTES


class Flight(msgspec.Struct, frozen=True, kw_only=True):
    """A place becomes None when its instance is forgotten."""

    asked: Asked
    first: Place | None
    """Where the prompt is computed."""
    decode: Place | None
    """Where the answer is produced, if elsewhere."""
    alone: bool
    """One instance does both."""
    held_tokens: int
    """What the first instance has of the prompt without computing it, as far as is known."""
    started: float | None
    """When it was decided, in clock seconds; None when the first instance has to pull or to do something else."""
    prefilled: bool = False

    def needs(self, instance: InstanceId) -> bool:
        """It has something to do there, now or later."""
        computes = self.first is not None and self.first.instance == instance and (self.alone or not self.prefilled)
        return computes or (self.decode is not None and self.decode.instance == instance)

    def without(self, instance: InstanceId) -> "Flight":
        """The same flight when nobody there has anything to do with it."""
        first, decode = _unless(self.first, instance), _unless(self.decode, instance)
        if (first, decode) == (self.first, self.decode):
            return self
        return msgspec.structs.replace(self, first=first, decode=decode)


def _unless(place: Place | None, instance: InstanceId) -> Place | None:
    return None if place is not None and place.instance == instance else place

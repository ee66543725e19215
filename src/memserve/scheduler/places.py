"""Where in a group the holders of a prefix stand, so that one number is written for all of them at once.

Owns what was found lately, which stands until an instance gets a bit or loses it (`Slots.version`).
"""

import numpy as np
import numpy.typing as npt

from memserve.core.enums import Role
from memserve.core.ids import InstanceId
from memserve.scheduler.candidates import Group
from memserve.scheduler.slots import Slots, each_bit

_MAX_SETS = 4096
_MAX_GROUPS = 32


class Places:
    """Of one group."""

    def __init__(self, group: Group, slots: Slots) -> None:
        self.group = group
        """The first one with these instances in these roles: to be kept in place of those of newer views."""
        self.bits = tuple(map(slots.find, group.instances))
        """Of each instance, in order; 0 for those that hold nothing anywhere."""
        self.by_bit = {bit: place for place, bit in enumerate(self.bits) if bit}
        """Place of each bit."""
        self.members = sum(self.by_bit)
        """As bits; who holds nothing anywhere has none."""
        self.num_strangers = len(self.bits) - len(self.by_bit)
        """Members without a bit."""
        self._found: dict[int, npt.NDArray[np.intp]] = {}

    def of(self, bits: int) -> npt.NDArray[np.intp]:
        """Of those among these that belong to the group, in no particular order."""
        found = self._found.get(bits)
        if found is None:
            if len(self._found) >= _MAX_SETS:
                self._found.clear()
            within = [self.by_bit[bit] for bit in each_bit(bits & self.members)]
            found = self._found[bits] = np.array(within, dtype=np.intp)
        return found

    def __repr__(self) -> str:
        return f"Places({len(self.by_bit)} known, {len(self._found)} sets)"


class AllPlaces:
    """Of the groups that are weighed at present."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._version = slots.version
        self._by_group: dict[int, tuple[Group, Places]] = {}  # by id, its own while it is kept
        self._by_instances: dict[tuple[tuple[InstanceId, ...], tuple[Role, ...]], Places] = {}

    def of(self, group: Group) -> Places:
        if self._version != self._slots.version:
            self._by_group.clear()
            self._by_instances.clear()
            self._version = self._slots.version
        known = self._by_group.get(id(group))
        return known[1] if known is not None else self._look_up(group)

    def _look_up(self, group: Group) -> Places:
        """The same instances with other numbers, in a newer view, stand where they stood."""
        if len(self._by_group) >= _MAX_GROUPS:
            self._by_group.clear()
        if len(self._by_instances) >= _MAX_GROUPS:
            self._by_instances.clear()
        who = group.instances, group.roles
        places = self._by_instances.get(who)
        if places is None:
            places = self._by_instances[who] = Places(group, self._slots)
        self._by_group[id(group)] = group, places
        return places

    def __repr__(self) -> str:
        return f"AllPlaces({len(self._by_group)} groups)"

"""Instances as bits, so that a set of them is one integer and sets are joined, cut and counted in one step.

Owns which bit stands for whom. A bit is given to the next newcomer once its instance is forgotten, so whoever keeps
something by bits looks at `version` first.
"""

from memserve.core.ids import InstanceId

_MAX_SETS = 4096
"""Of those whose names are kept at hand."""
_FEW = 8
"""Of so few it is faster not to keep them."""


class Slots:
    def __init__(self) -> None:
        self.version = 0
        """Changes with every instance that gets a bit or loses it."""
        self._bits: dict[InstanceId, int] = {}
        self._names: dict[int, InstanceId] = {}
        self._sets: dict[int, tuple[InstanceId, ...]] = {}

    def find(self, instance: InstanceId) -> int:
        """Its bit; 0 when it has none."""
        return self._bits.get(instance, 0)

    def give(self, instance: InstanceId) -> int:
        """Its bit, a new one if it has none."""
        bit = self._bits.get(instance)
        if bit is None:
            bit = 1
            while bit in self._names:
                bit <<= 1
            self._bits[instance] = bit
            self._names[bit] = instance
            self.version += 1
        return bit

    def release(self, instance: InstanceId) -> None:
        """Nothing is kept under its bit any longer."""
        bit = self._bits.pop(instance, 0)
        if bit:
            del self._names[bit]
            self._sets.clear()
            self.version += 1

    def names(self, bits: int) -> tuple[InstanceId, ...]:
        """Of all these, which must have been given."""
        found = self._sets.get(bits)
        if found is None:
            if len(self._sets) >= _MAX_SETS:
                self._sets.clear()
            found = self._sets[bits] = tuple(self._names[bit] for bit in each_bit(bits))
        return found

    def pick(self, bits: int, number: int) -> InstanceId:
        """The one with so many others of these before it."""
        if bits.bit_count() > _FEW:
            return self.names(bits)[number]
        for _ in range(number):
            bits &= bits - 1
        return self._names[bits & -bits]

    def __repr__(self) -> str:
        return f"Slots({len(self._bits)} instances)"


def each_bit(bits: int) -> list[int]:
    """From the lowest to the highest."""
    found = []
    while bits:
        bit = bits & -bits
        found.append(bit)
        bits ^= bit
    return found

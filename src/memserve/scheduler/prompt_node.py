"""One node of a prompt tree: a run of whole blocks, who holds it, until when, and in which tier.

Owns what is known of the run, and how far a run agrees with a prompt; the tree (prompt_tree.py) owns which node stands
below which, and which of them are there at all. Holders are bits of Slots.
"""

from memserve.core.enums import Tier


class PromptNode:
    __slots__ = ("check_at", "children", "coming", "elsewhere", "holders", "mask", "parent", "run")

    def __init__(self, run: bytes, parent: "PromptNode | None") -> None:
        self.run = run  # whole blocks; a root keeps its namespace here
        self.parent = parent
        self.children: dict[bytes, PromptNode] = {}  # by first block
        self.holders: dict[int, float] = {}  # bit -> when the entry expires
        self.mask = 0  # the keys of holders, or'ed
        self.coming = 0  # those of them that are only expected to hold it soon
        self.check_at = float("inf")  # no holder expires before
        self.elsewhere: dict[Tier, int] | None = None  # tier -> holders that have the run there; else it is in DRAM

    def hold(self, bit: int, expires: float, *, is_coming: bool) -> None:
        """An expectation changes nothing about what is known, but for how long."""
        if self.holders.get(bit, 0.0) < expires:
            self.holders[bit] = expires
            self.check_at = min(self.check_at, expires)
        if not is_coming:
            self.coming &= ~bit
        elif not self.mask & bit:
            self.coming |= bit
        self.mask |= bit

    def tier(self, bit: int) -> Tier:
        """Where this holder has the run."""
        if self.elsewhere is not None:
            for tier, mask in self.elsewhere.items():
                if mask & bit:
                    return tier
        return Tier.DRAM

    def put(self, bit: int, tier: Tier) -> None:
        """This holder has the run in `tier`."""
        masks = {other: mask & ~bit for other, mask in (self.elsewhere or {}).items()}
        if tier is not Tier.DRAM:
            masks[tier] = masks.get(tier, 0) | bit
        self.elsewhere = {other: mask for other, mask in masks.items() if mask} or None


def common_bytes(run: bytes, tokens: bytes, at: int, end: int, width: int) -> int:
    """Bytes of whole blocks in which `run` and tokens[at:end] agree, by bisection over C comparisons."""
    low, high = 0, min(len(run), end - at) // width
    while low < high:
        middle = (low + high + 1) // 2
        if run[low * width : middle * width] == tokens[at + low * width : at + middle * width]:
            low = middle
        else:
            high = middle - 1
    return low * width

"""One prompt before anyone is chosen: who holds how much of it, who may give it to others, what the rest would cost.

Owns the shape and the seconds that follow from a length held. Pure.
"""

import msgspec

from memserve.core.ids import InstanceId
from memserve.scheduler.cost_model import PathTerms, PrefillTerms
from memserve.scheduler.flight import Asked
from memserve.scheduler.holdings import Held


class Prospect(msgspec.Struct, frozen=True, kw_only=True):
    asked: Asked
    num_tokens: int
    """Of the prompt."""
    may_split: bool
    """Serve it on one instance or on two: there are candidates for both."""
    held: Held
    source: InstanceId | None
    """Of those that hold most and may give it to others, the one whose path is free soonest."""
    source_tokens: int
    source_wait_s: float
    """Until its path is free."""
    prefill: PrefillTerms
    path: PathTerms
    usual_pace: float
    transfer_pace: float
    bytes_per_token: float
    whole_s: float
    """To compute all of the prompt, on an instance of the usual pace."""
    rest_s: float
    """To compute what `source_tokens` leave, at a pace of 1."""
    is_spreading: bool
    """The longest held prefix is a heavy hitter that few hold, and can be pulled: whom it goes to is not charged."""
    output_tokens: float

    def compute_s(self, held: int) -> float:
        """To compute what an instance lacks that holds so much, or to pull more if that is sooner; at a pace of 1."""
        total, most = self.num_tokens or 1, self.source_tokens
        if held == most:
            return self.rest_s
        own_s = self.prefill.seconds(total, held / total)
        if held > most:
            return own_s
        path_s = self.path.seconds((most - held) * self.bytes_per_token) * self.transfer_pace
        pull_s = (self.source_wait_s + path_s) / self.usual_pace
        return min(own_s, pull_s + self.rest_s)

    def move_s(self, held: int) -> float:
        """To bring what an instance lacks that holds so much, from one that has computed it."""
        return self.path.seconds((self.num_tokens - held) * self.bytes_per_token) * self.transfer_pace

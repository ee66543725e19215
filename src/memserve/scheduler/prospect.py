"""One prompt before anyone is chosen: who holds how much of it, who may give it to others, what the rest would cost.

Owns the shape and the seconds that follow from a length held. Pure.
"""

import msgspec

from memserve.scheduler.flight import Asked
from memserve.scheduler.holdings import Held
from memserve.scheduler.predictions import Predictions


class Prospect(msgspec.Struct, frozen=True, kw_only=True):
    asked: Asked
    num_tokens: int
    """Of the prompt."""
    may_split: bool
    """Serve it on one instance or on two: there are candidates for both."""
    held: Held
    sources: int
    """Who holds most of those that may give it to others, as bits of Slots."""
    source_tokens: int
    source_wait_s: float
    """Until the path of one of them is free."""
    predictions: Predictions
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
        predictions = self.predictions
        own_s = predictions.prefill.seconds(total, held / total)
        if held > most:
            return own_s
        path_s = predictions.usual_transfer_s((most - held) * self.bytes_per_token)
        pull_s = (self.source_wait_s + path_s) / predictions.computing.usual
        return min(own_s, pull_s + self.rest_s)

    def move_s(self, held: int) -> float:
        """To bring what an instance lacks that holds so much, from one that has computed it."""
        return self.predictions.usual_transfer_s((self.num_tokens - held) * self.bytes_per_token)

"""Whether KV leaves layer by layer or as one request: chosen by how busy the sender is. Decides only.

By layer, all but the last layer's transfer hides behind the computation, but each layer costs calls of its own;
as one request there is one call, after the computation. By layer wins at low load, by request at high load
(arXiv 2406.17565). Between two limits the choice stays what it was, so that it does not flap.
"""

from memserve.core.enums import TransferMode

BUSY = 4
"""Prompts in the engine from which on the calls cost more than the waiting."""
CALM = 2
"""Prompts in the engine down to which it pays to hide the transfer."""


class PaceByLoad:
    """The choice of one sender."""

    def __init__(self, *, calm: int = CALM, busy: int = BUSY) -> None:
        self._calm = calm
        self._busy = busy
        self._mode = TransferMode.BY_LAYER

    def choose(self, asked: TransferMode, *, num_prompts: int) -> TransferMode:
        """What was asked for; where that is AUTO, by the `num_prompts` here that are computed or wait for it."""
        if asked is not TransferMode.AUTO:
            return asked
        if num_prompts >= self._busy:
            self._mode = TransferMode.BY_REQUEST
        elif num_prompts <= self._calm:
            self._mode = TransferMode.BY_LAYER
        return self._mode

    def __repr__(self) -> str:
        return f"PaceByLoad({self._mode}, calm up to {self._calm}, busy from {self._busy} prompts on)"

"""Choices that an operator may change while the gateway serves.

Owns their present values; read once per request, so a request in progress keeps what it began with.
"""

from memserve.core.enums import TransferMode


class Switches:
    def __init__(self) -> None:
        self.transfer: TransferMode | None = None
        """How KV leaves the prefill instances; None: as each was configured."""

"""The pins of one pool, for threads of this process and for its agent: the ledger's, behind the pool's one lock."""

from collections.abc import Iterator

from memserve.core.ids import PinId
from memserve.instance.core import PoolCore
from memserve.pool.tokens import Tokens
from memserve.wire.identity import Namespace
from memserve.wire.messages import Pinned


class PoolPins:
    """Thread-safe."""

    def __init__(self, core: PoolCore) -> None:
        self._core = core

    def pin(self, tokens: Tokens, *, namespace: Namespace = b"") -> Pinned:
        """Have eviction spare what is indexed of the whole blocks of `tokens`, until `unpin`.

        Pinning them again takes in what was cached since. Raises QuotaExceeded beyond the share of a tier that may be
        pinned, InvalidTokens below one whole block; nothing has changed then.
        """
        with self._core.lock:
            return self._core.ledger.pins.pin(tokens, namespace=namespace)

    def unpin(self, pin: PinId) -> bool:
        """False when there is no such pin."""
        with self._core.lock:
            return self._core.ledger.pins.unpin(pin)

    def __iter__(self) -> Iterator[Pinned]:
        """All of them as they are now, the oldest first."""
        with self._core.lock:
            return iter([*self._core.ledger.pins])

    def __repr__(self) -> str:
        return f"PoolPins({[*self]})"

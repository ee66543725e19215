"""The mirror of the engine's own prefix cache, for the engine's side to keep true: behind the pool's one lock."""

from collections.abc import Iterable, Sequence

from memserve.core.enums import Tier
from memserve.core.errors import ConfigError
from memserve.instance.core import PoolCore
from memserve.pool.tokens import Tokens
from memserve.wire.identity import Namespace


class EngineBlocks:
    """Thread-safe. Names engine blocks by the engine's own numbers."""

    def __init__(self, core: PoolCore) -> None:
        self._core = core

    def begin(self, num_blocks: int) -> None:
        """An engine with so many blocks is mirrored from now on. Raises ConfigError beside an HBM tier of the pool."""
        if Tier.HBM in self._core.memory.capacity:
            raise ConfigError("this pool has an HBM tier of its own: it cannot mirror an engine's as well")
        with self._core.lock:
            self._core.ledger.mirror.num_blocks = num_blocks

    def stored(self, tokens: Tokens, engine_blocks: Sequence[int], *, namespace: Namespace = b"") -> tuple[int, ...]:
        """The engine holds these whole blocks; those that are mirrored now and were not."""
        with self._core.lock:
            return self._core.ledger.mirror.stored(tokens, engine_blocks, namespace=namespace)

    def gone(self, engine_blocks: Iterable[int]) -> None:
        """The engine has something else there."""
        with self._core.lock:
            self._core.ledger.mirror.gone(engine_blocks)

    def num_tokens(self, tokens: Tokens, *, namespace: Namespace = b"") -> int:
        """Leading tokens that the engine holds, whole blocks only."""
        with self._core.lock:
            return self._core.ledger.mirror.num_tokens(tokens, namespace=namespace)

    def __repr__(self) -> str:
        return f"EngineBlocks({self._core.ledger.mirror})"

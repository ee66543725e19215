"""Keeps the pool's mirror of vLLM's own prefix cache true, from beside vLLM's scheduler.

vLLM names a cached block by a hash that stays on it until the block is given to somebody else. So a prompt is told
when all of it is computed, and again with its answer at the end; a block is known to be gone when its hash is another
one, which is looked at where blocks are handed out and, a few blocks a step, everywhere. Costs next to nothing in a
step in which no prompt ends and no block is handed out.

Lifecycle: bind (once, by vLLM) -> planned, ended or dropped of each request, step at each step.
"""

from collections.abc import Iterable, Iterator, Sequence

from vllm.v1.core.block_pool import BlockPool

from memserve.instance.engine_blocks import EngineBlocks
from memserve.wire.identity import Namespace

_CHECKED_A_STEP = 32
"""Blocks that were given to a request that never ran, or thrown away by vLLM, are found so."""


class _Seen:
    """Of one request, as of its last planned step."""

    __slots__ = ("is_told", "num_blocks", "num_tokens")

    def __init__(self) -> None:
        self.num_blocks = 0
        self.num_tokens = 0
        self.is_told = False


class HbmMirror:
    """Of one engine. Not thread-safe: vLLM's scheduler thread owns it."""

    def __init__(self, mirror: EngineBlocks, *, block_size: int) -> None:
        self._mirror = mirror
        self._block_tokens = block_size * 4  # bytes
        self._pool: BlockPool | None = None
        self._cache: object = None
        self._hashes: dict[int, bytes] = {}
        self._to_check: Iterator[int] = iter(())
        self._seen: dict[str, _Seen] = {}

    def bind(self, pool: BlockPool) -> None:
        """vLLM's blocks; nothing is mirrored where it caches nothing."""
        if pool.enable_caching:
            self._pool = pool
            self._cache = pool.cached_block_hash_to_block
            self._mirror.begin(pool.num_gpu_blocks - 1)  # one of them is a placeholder

    def planned(
        self, key: str, prompt: bytes, engine_blocks: Sequence[int], num_tokens: int, *, namespace: Namespace
    ) -> None:
        """A step will have computed `num_tokens` tokens of this request; what earlier ones have is there now."""
        seen = self._seen.get(key)
        if seen is None:
            seen = self._seen[key] = _Seen()
        self.handed_out(engine_blocks[seen.num_blocks :])
        if not seen.is_told and seen.num_tokens * 4 >= len(prompt):
            seen.is_told = True
            self._computed(prompt, engine_blocks, namespace)
        seen.num_blocks, seen.num_tokens = len(engine_blocks), num_tokens

    def ended(self, key: str, tokens: bytes, engine_blocks: Sequence[int], *, namespace: Namespace) -> None:
        """A request is done: these int32 tokens, prompt and answer, are in its blocks."""
        self._seen.pop(key, None)
        self._computed(tokens, engine_blocks, namespace)

    def dropped(self, key: str) -> None:
        """A request was aborted, or has to begin again: what it has computed is not told."""
        self._seen.pop(key, None)

    def handed_out(self, engine_blocks: Iterable[int]) -> None:
        """vLLM gave these blocks to a request: they may have held something else before."""
        if self._hashes:
            self._forget(block for block in engine_blocks if self._is_other(block))

    def check_all(self) -> None:
        """vLLM may have thrown away more than it said."""
        self._forget(block for block in tuple(self._hashes) if self._is_other(block))

    def step(self) -> None:
        """Once a step."""
        if not self._hashes or self._pool is None:
            return
        if self._pool.cached_block_hash_to_block is not self._cache:  # made anew when the whole cache is reset
            self._cache = self._pool.cached_block_hash_to_block
            self.check_all()
            return
        checked = [block for _, block in zip(range(_CHECKED_A_STEP), self._to_check, strict=False)]
        if len(checked) < _CHECKED_A_STEP:
            self._to_check = iter(tuple(self._hashes))
        self._forget(block for block in checked if self._is_other(block))

    def _computed(self, tokens: bytes, engine_blocks: Sequence[int], namespace: Namespace) -> None:
        if self._pool is None:
            return
        num_whole = min(len(tokens) // self._block_tokens, len(engine_blocks))
        blocks = self._pool.blocks
        named = []
        for block in engine_blocks[:num_whole]:
            if blocks[block].block_hash is None:
                break
            named.append(block)
        if named:
            self._forget(block for block in named if self._is_other(block))
            for block in self._mirror.stored(tokens[: len(named) * self._block_tokens], named, namespace=namespace):
                self._hashes[block] = bytes(blocks[block].block_hash)

    def _is_other(self, block: int) -> bool:
        """It is mirrored with something that it does not hold any more."""
        known = self._hashes.get(block)
        return known is not None and self._pool is not None and self._pool.blocks[block].block_hash != known

    def _forget(self, engine_blocks: Iterable[int]) -> None:
        gone = tuple(engine_blocks)
        if gone:
            self._mirror.gone(gone)
            for block in gone:
                del self._hashes[block]

    def __repr__(self) -> str:
        return f"HbmMirror({len(self._hashes)} blocks)"

"""The pool's ledger behind the pool's one lock: what threads of this process may call at any time.

Adds nothing but the lock; each call is the ledger's call of the same name. Calls take microseconds to
a few milliseconds and never wait for the network or for bytes.
"""

import threading
from collections.abc import Collection, Sequence

from memserve.core.enums import Tier
from memserve.core.ids import BlockId, LeaseId
from memserve.pool.block import BlockState
from memserve.pool.events import PoolEvent
from memserve.pool.ledger import Match, PoolLedger
from memserve.pool.radix_index import Insertion
from memserve.pool.tokens import Tokens
from memserve.wire.identity import Namespace
from memserve.wire.messages import TierStats


class LockedLedger:
    """Thread-safe view of one PoolLedger."""

    def __init__(self, ledger: PoolLedger, lock: "threading.RLock") -> None:
        self._ledger = ledger
        self._lock = lock

    def allocate(
        self, num_blocks: int, *, tier: Tier = Tier.DRAM, owner: str, ttl_s: float | None = None
    ) -> tuple[BlockId, ...]:
        with self._lock:
            return self._ledger.allocate(num_blocks, tier=tier, owner=owner, ttl_s=ttl_s)

    def free(self, blocks: Sequence[BlockId]) -> None:
        with self._lock:
            self._ledger.free(blocks)

    def insert(
        self, tokens: Tokens, blocks: Sequence[BlockId], *, namespace: Namespace = b"", ttl_s: float | None = None
    ) -> Insertion:
        with self._lock:
            return self._ledger.insert(tokens, blocks, namespace=namespace, ttl_s=ttl_s)

    def match(self, tokens: Tokens, *, owner: str, namespace: Namespace = b"", ttl_s: float | None = None) -> Match:
        with self._lock:
            return self._ledger.match(tokens, owner=owner, namespace=namespace, ttl_s=ttl_s)

    def release(self, lease: LeaseId) -> None:
        with self._lock:
            self._ledger.release(lease)

    def extend(self, owner: str, *, ttl_s: float) -> None:
        with self._lock:
            self._ledger.extend(owner, ttl_s=ttl_s)

    def delete(self, tokens: Tokens, *, namespace: Namespace = b"") -> int:
        with self._lock:
            return self._ledger.delete(tokens, namespace=namespace)

    def release_owner(self, owner: str) -> None:
        with self._lock:
            self._ledger.release_owner(owner)

    def state(self, block: BlockId) -> BlockState:
        with self._lock:
            return self._ledger.state(block)

    def in_none_of(self, blocks: Sequence[BlockId], allowed: Collection[BlockState]) -> Collection[BlockId]:
        with self._lock:
            return self._ledger.in_none_of(blocks, allowed)

    def take_events(self) -> tuple[PoolEvent, ...]:
        with self._lock:
            return tuple(self._ledger.take_events())

    def stats(self) -> tuple[TierStats, ...]:
        with self._lock:
            return self._ledger.stats()

    def check(self) -> None:
        """Raise InvariantError when the books do not balance; walks everything."""
        with self._lock:
            self._ledger.check()

    def __repr__(self) -> str:
        with self._lock:
            return f"LockedLedger({self._ledger!r})"

"""What the threads of one pool share: the ledger, the sessions, the bytes, and the one lock around decisions.

Whoever calls `ledger` or `sessions` holds `lock`; `memory` needs none.
"""

import threading

from memserve.config import DEFAULT_KEEPING, Keeping
from memserve.core.clock import Clock
from memserve.instance.tiers import TierMemory
from memserve.pool.ledger import PoolLedger
from memserve.transfer.session import TransferSessions


class PoolCore:
    """One pool's state."""

    def __init__(
        self, *, memory: TierMemory, block_size: int, clock: Clock, keeping: Keeping = DEFAULT_KEEPING
    ) -> None:
        self.lock = threading.RLock()
        self.memory = memory
        self.clock = clock
        self.ledger = PoolLedger(block_size=block_size, capacity=memory.capacity, clock=clock, keeping=keeping)
        self.sessions = TransferSessions(ledger=self.ledger, clock=clock, block_size=block_size)

    def expire(self) -> int:
        """End transfers, allocations and leases that have outlived their time; returns how many."""
        with self.lock:
            return self.sessions.expire() + self.ledger.expire()

    def __repr__(self) -> str:
        return f"PoolCore({self.ledger}, {self.sessions})"

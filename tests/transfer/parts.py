"""A receiver without its I/O: real ledger, real sessions, a manual clock, and short ways to say messages."""

import numpy as np

from memserve.core.clock import ManualClock
from memserve.core.enums import Tier
from memserve.core.ids import BlockId, Incarnation, InstanceId, RequestId, TransferId
from memserve.pool.ledger import PoolLedger
from memserve.transfer.record import peer_owner
from memserve.transfer.session import TransferSessions
from memserve.wire.messages import AllocRequest, BlockList, CommitRequest, ReserveRequest, TransferRequest

BLOCK_SIZE = 4
NUM_BLOCKS = 16
SENDER = InstanceId("p")
LIFE = Incarnation(1)
OWNER = peer_owner(SENDER, LIFE)
TTL_S = 10.0


def tokens(num_tokens: int, *, first: int = 0) -> bytes:
    return np.arange(first, first + num_tokens, dtype="<i4").tobytes()


class Receiver:
    """Everything that a test looks at."""

    def __init__(self, *, num_blocks: int = NUM_BLOCKS, max_open: int = 64, max_remembered: int = 64) -> None:
        self.clock = ManualClock()
        self.ledger = PoolLedger(block_size=BLOCK_SIZE, capacity={Tier.DRAM: num_blocks, Tier.HBM: 4}, clock=self.clock)
        self.sessions = TransferSessions(
            ledger=self.ledger,
            clock=self.clock,
            block_size=BLOCK_SIZE,
            max_open=max_open,
            max_remembered=max_remembered,
        )

    @property
    def num_reserved(self) -> int:
        """DRAM blocks that somebody holds and the index does not name."""
        return self.ledger.stats()[-1].num_reserved

    @property
    def num_cached(self) -> int:
        return self.ledger.stats()[-1].num_cached

    def num_matched(self, data: bytes) -> int:
        match = self.ledger.match(data, owner="test")
        self.ledger.release_owner("test")
        return match.num_tokens

    def is_empty(self) -> bool:
        """Nobody holds anything."""
        return self.sessions.stats().num_open == 0 and self.num_reserved == 0 and self.ledger.num_leases == 0


def reserve(
    name: str = "t1",
    *,
    data: bytes,
    request: str = "r1",
    reuse: bool = True,
    tail: bool = True,
    handoff: bool = True,
    incarnation: Incarnation = LIFE,
    ttl_s: float = TTL_S,
) -> ReserveRequest:
    return ReserveRequest(
        transfer=TransferId(name),
        request=RequestId(request),
        sender=SENDER,
        incarnation=incarnation,
        tokens=data,
        namespace=b"",
        reuse=reuse,
        tail=tail,
        handoff=handoff,
        ttl_s=ttl_s,
    )


def commit(
    name: str = "t1", *, num_blocks: int, insert: bool = True, rank: int = 0, num_ranks: int = 1
) -> CommitRequest:
    return CommitRequest(
        transfer=TransferId(name), num_blocks=num_blocks, insert=insert, rank=rank, num_ranks=num_ranks
    )


def transfer(
    name: str = "t1",
    *,
    num_blocks: int = 2,
    data: bytes | None = None,
    destination: tuple[BlockId, ...] | None = None,
    tier: Tier = Tier.DRAM,
    incarnation: Incarnation = LIFE,
) -> TransferRequest:
    first = int(Tier.DRAM) << 60
    return TransferRequest(
        transfer=TransferId(name),
        source=BlockList(
            instance=SENDER, incarnation=incarnation, blocks=tuple(BlockId(first + n) for n in range(num_blocks))
        ),
        tier=tier,
        checksums=(0,) * num_blocks,
        destination=destination,
        tokens=data,
        ttl_s=TTL_S,
    )


def alloc(num_blocks: int, *, tier: Tier = Tier.DRAM) -> AllocRequest:
    return AllocRequest(num_blocks=num_blocks, tier=tier, owner=SENDER, incarnation=LIFE, ttl_s=TTL_S)

"""What a transfer session needs of a pool's ledger, stated as types so that the rooms stay apart."""

from typing import Protocol

from memserve.core.enums import Tier
from memserve.core.ids import BlockId, LeaseId
from memserve.wire.identity import Namespace


class MatchView(Protocol):
    """The longest indexed prefix and the lease that keeps it."""

    @property
    def blocks(self) -> tuple[BlockId, ...]: ...

    @property
    def lease(self) -> LeaseId | None: ...


class Ledger(Protocol):
    """One pool's decisions; memserve.pool.ledger.PoolLedger is the real one."""

    def allocate(self, num_blocks: int, *, tier: Tier, owner: str) -> tuple[BlockId, ...]: ...

    def free(self, blocks: tuple[BlockId, ...]) -> None: ...

    def insert(self, tokens: bytes, blocks: tuple[BlockId, ...], *, namespace: Namespace) -> object: ...

    def match(self, tokens: bytes, *, owner: str, namespace: Namespace) -> MatchView: ...

    def release_owner(self, owner: str) -> object: ...

"""What tests put into a ledger's index and look for there."""

from collections.abc import Sequence

from memserve.core.enums import Tier
from memserve.pool.ledger import PoolLedger


def store(ledger: PoolLedger, prompt: Sequence[int], *, ttl_s: float | None = None) -> None:
    match = ledger.match(prompt, owner="test")
    number = len(prompt) // ledger.block_size - len(match.blocks)
    new = ledger.allocate(number, tier=Tier.DRAM, owner="test") if number else ()
    ledger.insert(prompt, (*match.blocks, *new), ttl_s=ttl_s)
    if match.lease is not None:
        ledger.release(match.lease)


def found(ledger: PoolLedger, prompt: Sequence[int]) -> int:
    match = ledger.match(prompt, owner="test")
    if match.lease is not None:
        ledger.release(match.lease)
    return match.num_tokens // ledger.block_size

"""Checks of what callers of MemPool pass: are these blocks of this pool, in use, and filled by these tokens?"""

from collections.abc import Sequence

from memserve.core.errors import InvalidBlocks, InvalidTokens
from memserve.core.ids import BlockId, Incarnation, InstanceId
from memserve.instance.locked_ledger import LockedLedger
from memserve.pool.block import BlockState
from memserve.pool.tokens import TOKEN_BYTES, Tokens, as_token_bytes
from memserve.wire.messages import BlockList

_READABLE = frozenset({BlockState.ACTIVE, BlockState.HISTORICAL, BlockState.DETACHED})
_WRITABLE = frozenset({BlockState.ACTIVE})


class Addresses:
    """BlockLists of one life of one pool."""

    def __init__(
        self, *, instance: InstanceId, incarnation: Incarnation, block_size: int, ledger: LockedLedger
    ) -> None:
        self._instance = instance
        self._incarnation = incarnation
        self._block_size = block_size
        self._ledger = ledger

    def name(self, blocks: Sequence[BlockId]) -> BlockList:
        return BlockList(instance=self._instance, incarnation=self._incarnation, blocks=tuple(blocks))

    def own(self, addresses: BlockList) -> tuple[BlockId, ...]:
        """Raises InvalidBlocks for another pool's blocks, or for those of an earlier life of this one."""
        if (addresses.instance, addresses.incarnation) != (self._instance, self._incarnation):
            raise InvalidBlocks(
                f"blocks of {addresses.instance}/{addresses.incarnation} are not here: "
                f"this is {self._instance}/{self._incarnation}"
            )
        return addresses.blocks

    def readable(self, addresses: BlockList) -> tuple[BlockId, ...]:
        """Raises InvalidBlocks when a block was given back meanwhile, too."""
        return self._in_state(addresses, _READABLE, "read")

    def writable(self, addresses: BlockList) -> tuple[BlockId, ...]:
        """Raises InvalidBlocks for indexed blocks, too: others may be reading them."""
        return self._in_state(addresses, _WRITABLE, "written")

    def filling_tokens(self, tokens: Tokens, num_blocks: int) -> bytes:
        """As bytes. Raises InvalidTokens unless they fill exactly that many blocks."""
        data = bytes(as_token_bytes(tokens))
        if len(data) != num_blocks * self._block_size * TOKEN_BYTES:
            raise InvalidTokens(
                f"{len(data) // TOKEN_BYTES} tokens for {num_blocks} blocks of {self._block_size} tokens: "
                "give exactly the tokens that fill them"
            )
        return data

    def _in_state(self, addresses: BlockList, allowed: frozenset[BlockState], what: str) -> tuple[BlockId, ...]:
        blocks = self.own(addresses)
        unfit = self._ledger.in_none_of(blocks, allowed)
        if unfit:
            first = next(block for block in blocks if block in unfit)
            raise InvalidBlocks(
                f"{len(unfit)} of {len(blocks)} blocks cannot be {what}, the first is {first:#x}: "
                f"{self._ledger.state(first).value}"
            )
        return blocks

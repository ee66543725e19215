"""The real pool ledger of one modelled instance, fed with the block names of a trace.

Owns how a prompt enters and is looked up: matched under a lease, which ends with the look-up, room allocated for
what is missing (eviction included), then inserted. A block is named by one number that stands in for its tokens,
so the ledger runs with blocks of one token. What does not fit is not kept: nothing is leased between two calls, so
there always is room for the rest.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from memserve.config import Watermarks
from memserve.core.clock import Clock
from memserve.core.enums import Tier
from memserve.core.errors import InvariantError
from memserve.pool.cold import ColdRun
from memserve.pool.events import EventsLost
from memserve.pool.eviction import eviction_policy
from memserve.pool.ledger import PoolLedger
from memserve.wire.events import IndexEvent

_OWNER = "simulated"
_MARKS = Watermarks()


class PromptPool:
    """One tier of `num_blocks` blocks; with none it keeps nothing."""

    def __init__(self, *, num_blocks: int, eviction: str, clock: Clock, block_tokens: int) -> None:
        """`eviction` by name; raises ConfigError for one that there is not."""
        self._num_blocks = num_blocks
        self.block_tokens = block_tokens
        self._is_over = False
        self._ledger = PoolLedger(
            block_size=1, capacity={Tier.DRAM: num_blocks}, clock=clock, eviction=eviction_policy(eviction)
        )

    def __repr__(self) -> str:
        return f"PromptPool({self._ledger!r})"

    def fetch(self, blocks: tuple[int, ...]) -> int:
        """How many leading blocks the pool holds; counts as a use of them."""
        match = self._ledger.match(blocks, owner=_OWNER)
        if match.lease is not None:
            self._ledger.release(match.lease)
        return len(match.blocks)

    def store(self, blocks: tuple[int, ...]) -> int:
        """Keep the prompt, or as many leading blocks as the pool can hold; how many were held already."""
        fitting = blocks[: self._num_blocks]
        if not fitting:
            return 0
        match = self._ledger.match(fitting, owner=_OWNER)
        held = match.blocks
        if len(held) < len(fitting):
            new = self._ledger.allocate(len(fitting) - len(held), tier=Tier.DRAM, owner=_OWNER)
            self._ledger.insert(fitting, (*held, *new))
        if match.lease is not None:
            self._ledger.release(match.lease)
        return len(held)

    def coldest(self) -> tuple[ColdRun, tuple[int, ...]] | None:
        """The prompt end that is wanted least, and the whole prompt's blocks, when the pool has passed its high mark.

        Once it has, until it is back at its low mark.
        """
        mark = _MARKS.low if self._is_over else _MARKS.high
        num_over = self._ledger.num_over(Tier.DRAM, mark)
        self._is_over = num_over > 0
        if not self._is_over:
            return None
        run = self._ledger.cold.next_run(Tier.DRAM, max_blocks=self._ledger.num_over(Tier.DRAM, _MARKS.low))
        return None if run is None else (run, tuple(np.frombuffer(run.tokens, dtype="<i4").tolist()))

    def drop(self, run: ColdRun) -> None:
        """Somebody else has it now; stays when it was used or continued meanwhile."""
        self._ledger.cold.drop(run)

    def take_events(self) -> tuple[IndexEvent, ...]:
        """What happened to the index since the last call, told in whole blocks of tokens as an instance would."""
        events = self._ledger.take_events()
        if any(isinstance(event, EventsLost) for event in events):
            raise InvariantError(
                f"{len(events)} events waited in a simulated pool and some were lost: take them earlier"
            )
        return tuple(
            msgspec.structs.replace(event, tokens=self._expanded(event.tokens))
            for event in events
            if not isinstance(event, EventsLost)
        )

    def _expanded(self, names: bytes) -> bytes:
        return expanded(np.frombuffer(names, dtype="<i4"), self.block_tokens).tobytes()


def expanded(blocks: Sequence[int] | npt.NDArray[np.int32], block_tokens: int) -> npt.NDArray[np.int32]:
    """Tokens that stand for these blocks: every token of a block is the block's name; a partial one is filled up."""
    return np.repeat(np.asarray(blocks, dtype=np.int32), block_tokens)

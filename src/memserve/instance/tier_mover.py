"""Moves blocks between the tiers of one pool and keeps what is on disk for the next start.

Owns the threads that read and write the disk: one demotes what is wanted least when DRAM passes its high mark,
and erases what is no longer indexed; another one promotes what a request waits for. The ledger decides under the
pool's lock; bytes are copied outside of it. A block that cannot be read is dropped from the index and counted,
one that cannot be written stays where it is.

    restore -> (tick, promote, carry_out) -> close     (close saves what DRAM holds, for at most SAVE_S)
"""

import logging
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass

from memserve.config import Watermarks
from memserve.core.clock import Clock
from memserve.core.enums import Tier
from memserve.core.errors import InstanceUnavailable, InvalidBlocks, PoolExhausted, StorageFailed
from memserve.core.ids import BlockId, block_index, block_tier
from memserve.instance.core import PoolCore
from memserve.pool.block import BlockState
from memserve.pool.ledger import PoolLedger
from memserve.pool.swap import Swap
from memserve.storage.disk import DiskStorage
from memserve.wire.identity import Namespace
from memserve.wire.messages import DiskStats

TICK_S = 0.05
"""How often the high mark is looked at."""
SAVE_S = 1.5
"""Closing takes at most about so long to write to disk what DRAM holds."""
MAX_WAITING = 256
"""Promotions asked for and not ended; further ones are refused."""
_BATCH_BYTES = 16 << 20
_MAX_BATCH = 64
_REST_S = 5.0
"""After the disk took none of a batch it is not asked again for so long."""
_OWNER = "promotion"

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Counts:
    """Of blocks; names and meanings as in DiskStats."""

    num_restored: int = 0
    num_demoted: int = 0
    num_promoted: int = 0
    num_read_errors: int = 0
    num_write_errors: int = 0


class TierMover:
    """Of one pool; does nothing by itself where there is no disk."""

    def __init__(self, *, core: PoolCore, disk: DiskStorage | None, marks: Watermarks, clock: Clock) -> None:
        """`clock` bounds real work: it must be the machine's."""
        self._core = core
        self._disk = disk
        self._marks = marks
        self._clock = clock
        block_bytes = disk.block_bytes if disk is not None else _BATCH_BYTES
        self._batch = min(_MAX_BATCH, max(1, _BATCH_BYTES // block_bytes))
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="memserve-demote")
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="memserve-promote")
        self._tidying: Future[None] | None = None
        self._counts = _Counts()
        self._gate = threading.Lock()
        self._num_waiting = 0
        self._rests_until = 0.0
        self._is_closing = False

    def restore(self) -> None:
        """Index what an earlier process has left on disk. Before anything else happens to the pool."""
        if self._disk is None:
            return
        with self._core.lock:
            self._counts.num_restored = self._core.ledger.disk.restore(self._disk.labels())
        _log.info("%s: %d blocks found", self._disk, self._counts.num_restored)

    def stats(self) -> DiskStats | None:
        """None where there is no disk."""
        return DiskStats(**asdict(self._counts)) if self._disk is not None else None

    async def tick(self) -> None:
        """Begin to demote when DRAM has passed its high mark, and to erase what was freed on disk."""
        if self._disk is None or self._is_closing or (self._tidying is not None and not self._tidying.done()):
            return
        with self._core.lock:
            left = self._core.ledger.disk.take_left()
            self._disk.forget(left)
            is_over = self._core.ledger.num_over(Tier.DRAM, self._marks.high) > 0
        if left or (is_over and self._clock.now() >= self._rests_until):
            self._tidying = self._writer.submit(self._tidy, self._disk)

    def promote(self, tokens: bytes, *, namespace: Namespace, deadline_s: float) -> "Future[int]":
        """Move to DRAM what of the longest cached prefix is on disk; gives how many tokens were moved.

        Stops after `deadline_s`, where DRAM has no more room, and at a block that cannot be read. Fails with
        PoolExhausted when too many wait, and with InstanceUnavailable once the pool is closed.
        """
        if self._disk is None:
            return _nothing_moved()
        with self._gate:
            if self._is_closing:
                raise InstanceUnavailable("this pool is closed")
            if self._num_waiting >= MAX_WAITING:
                raise PoolExhausted(
                    f"{MAX_WAITING} requests wait for blocks on disk, the most allowed: compute instead"
                )
            self._num_waiting += 1
            promoted = self._reader.submit(self._promote, tokens, namespace, self._clock.now() + deadline_s)
        promoted.add_done_callback(self._one_less)
        return promoted

    def swap_out(self, num_blocks: int, *, source: Tier, target: Tier) -> int:
        """Move the least wanted blocks of a tier; returns how many. Raises PoolExhausted, InvalidBlocks."""
        with self._core.lock:
            swap = self._core.ledger.begin_swap(num_blocks, source=source, target=target)
        return self.carry_out(swap)

    def swap_in(self, blocks: Sequence[BlockId], *, target: Tier) -> tuple[BlockId, ...]:
        """Move these blocks; returns where they are now. Raises as `begin_swap_in`, and StorageFailed."""
        with self._core.lock:
            swap = self._core.ledger.begin_swap_in(blocks, target=target)
        if self.carry_out(swap) < len(blocks):
            raise StorageFailed(f"not all of {len(blocks)} blocks could be moved to {target.name}: match again")
        moved = dict(swap.pairs)
        return tuple(moved[block] for block in blocks)

    def carry_out(self, swap: Swap) -> int:
        """Copy what a swap has chosen, outside the lock; returns how many blocks have moved.

        Those that could not be read or written have not. On any other error nothing has.
        """
        ledger = self._core.ledger
        with self._core.lock:
            there = [s for s, t in swap.pairs if block_tier(t) is Tier.DISK and _is_indexed(ledger, s)]
            labels = {source: ledger.disk.label(source) for source in there}
        try:
            failed = self._copy_all(swap, labels)
        except BaseException:
            with self._core.lock:
                ledger.cancel_swap(swap)
            raise
        with self._core.lock:
            num_moved = ledger.finish_swap(swap, failed=failed)
            self._count(swap, failed, num_moved)
            ledger.discard(block for block in failed if block_tier(block) is Tier.DISK)
        return num_moved

    def close(self) -> None:
        """End what is under way, save what DRAM holds. Idempotent."""
        with self._gate:
            first, self._is_closing = not self._is_closing, True
        for threads in (self._writer, self._reader):
            threads.shutdown(wait=True, cancel_futures=True)
        if self._disk is not None and first:
            self._save(self._disk)

    def _copy_all(self, swap: Swap, labels: Mapping[BlockId, bytes]) -> set[BlockId]:
        """Returns the sources that could not be read, or whose targets could not be written."""
        failed: set[BlockId] = set()
        if self._core.memory.copy_at_once(swap.pairs):
            return failed
        for source, target in swap.pairs:
            try:
                self._copy(source, target, labels.get(source, b""))
            except StorageFailed as error:
                _log.warning("%s", error)
                failed.add(source)
        return failed

    def _copy(self, source: BlockId, target: BlockId, label: bytes) -> None:
        if self._disk is not None and block_tier(target) is Tier.DISK:
            self._disk.write(block_index(target), self._core.memory.bytes_of(source), label=label)
        else:
            self._core.memory.copy(source, target)

    def _count(self, swap: Swap, failed: set[BlockId], num_moved: int) -> None:
        counts, [(source, target), *_] = self._counts, swap.pairs
        if block_tier(target) is Tier.DISK:
            counts.num_demoted += num_moved
            counts.num_write_errors += len(failed)
        elif block_tier(source) is Tier.DISK:
            counts.num_promoted += num_moved
            counts.num_read_errors += len(failed)

    def _tidy(self, disk: DiskStorage) -> None:
        try:
            disk.erase()
        except StorageFailed as error:
            _log.warning("%s", error)
        while not self._is_closing and (swap := self._next_demotion(self._marks.low)) is not None:
            if self.carry_out(swap) == 0:  # the disk takes nothing: what DRAM has no room for is dropped
                self._rests_until = self._clock.now() + _REST_S
                return

    def _next_demotion(self, mark: float, *, num_coming: int = 0) -> Swap | None:
        """Some of the least wanted blocks, when DRAM and what is coming are over the mark; None also if none may go."""
        with self._core.lock:
            num_blocks = min(self._batch, self._core.ledger.num_over(Tier.DRAM, mark) + num_coming)
            while num_blocks > 0:
                try:
                    return self._core.ledger.begin_swap(num_blocks, source=Tier.DRAM, target=Tier.DISK)
                except PoolExhausted:
                    num_blocks //= 2
        return None

    def _promote(self, tokens: bytes, namespace: Namespace, until: float) -> int:
        ledger = self._core.ledger
        with self._core.lock:
            match = ledger.match(tokens, owner=_OWNER, namespace=namespace)
        if match.lease is None:
            return 0
        num_moved = 0
        try:
            cold = [block for block in match.blocks if block_tier(block) is Tier.DISK]
            while cold and self._clock.now() < until and not self._is_closing:
                if (room := self._next_demotion(1.0, num_coming=len(cold[: self._batch]))) is not None:
                    self.carry_out(room)
                swap = self._next_promotion(cold[: self._batch])
                if swap is None:
                    break
                num_moved += (num := self.carry_out(swap))
                if num < len(swap.pairs):
                    break
                del cold[: self._batch]
        finally:
            with self._core.lock:
                ledger.release(match.lease)
        return num_moved * ledger.block_size

    def _next_promotion(self, blocks: Sequence[BlockId]) -> Swap | None:
        """None when DRAM has no room, or somebody else moves one of them or has removed it."""
        with self._core.lock:
            there = [block for block in blocks if _is_indexed(self._core.ledger, block)]
            try:
                return self._core.ledger.begin_swap_in(there, target=Tier.DRAM)
            except (PoolExhausted, InvalidBlocks) as error:
                _log.info("blocks stay on disk: %s", error)
                return None

    def _save(self, disk: DiskStorage) -> None:
        """What is wanted most first, so that prefixes are there with what continues them."""
        until = self._clock.now() + SAVE_S
        with self._core.lock:
            waiting = list(self._core.ledger.disk.wanted(Tier.DRAM))
        try:
            while waiting and self._clock.now() < until:
                batch, waiting = waiting[: self._batch], waiting[self._batch :]
                with self._core.lock:
                    there = [block for block in batch if _is_indexed(self._core.ledger, block)]
                    swap = self._core.ledger.begin_swap_in(there, target=Tier.DISK) if there else None
                if swap is not None:
                    self.carry_out(swap)
            with self._core.lock:
                disk.forget(self._core.ledger.disk.take_left())
            disk.erase()
        except (PoolExhausted, InvalidBlocks, StorageFailed) as error:
            _log.info("%d blocks are not kept for the next start: %s", len(waiting), error)

    def _one_less(self, _promoted: "Future[int]") -> None:
        with self._gate:
            self._num_waiting -= 1

    def __repr__(self) -> str:
        return f"TierMover({self._disk}, {self._num_waiting} wait, {self._counts})"


def _nothing_moved() -> "Future[int]":
    moved: Future[int] = Future()
    moved.set_result(0)
    return moved


def _is_indexed(ledger: PoolLedger, block: BlockId) -> bool:
    return ledger.state(block) is BlockState.HISTORICAL

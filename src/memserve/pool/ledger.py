"""The block ledger of one pool: who has which block, what the index names, what goes when space is short.

Owns every decision of a MemPool on one instance; calls come in, plain answers and events go out.
Never copies bytes, never waits, never looks at a clock but the injected one. Not safe for threads:
the caller holds a lock around each call.

Life of a block: allocated for an owner (active), inserted under its tokens (historical), then
evicted or deleted. Whatever a lease reads keeps its bytes until the lease ends. An index entry is
always removed before its block can be handed out again.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence, Set

import msgspec

from memserve.config import DEFAULT_KEEPING, Keeping
from memserve.core.clock import Clock
from memserve.core.enums import Tier
from memserve.core.ids import BlockId, LeaseId, block_tier
from memserve.pool.active import ActiveBlocks, require_distinct
from memserve.pool.block import BlockState, by_tier, tier_runs
from memserve.pool.cold import ColdEnds
from memserve.pool.disk_index import DiskIndex
from memserve.pool.engine_mirror import EngineMirror
from memserve.pool.events import EventLog, PoolEvent
from memserve.pool.eviction_queue import EvictionQueue
from memserve.pool.insertion_copies import active_copies, faster_copies
from memserve.pool.invariants import check_index, check_queued, check_stock
from memserve.pool.labels import StoredRun
from memserve.pool.lease import Allocation, Hold, HoldBook, Lease, deadline_after
from memserve.pool.pins import PinBook
from memserve.pool.radix_index import Insertion, RadixIndex
from memserve.pool.radix_node import Node
from memserve.pool.ranking import EvictionPolicy, LeastRecentlyUsed
from memserve.pool.reclaim import num_protected
from memserve.pool.room import RoomMaker
from memserve.pool.snapshot import IndexSnapshot
from memserve.pool.stock import BlockStock
from memserve.pool.swap import Swap
from memserve.pool.tier_moves import TierMoves
from memserve.pool.tokens import Tokens
from memserve.wire.identity import Namespace
from memserve.wire.messages import TierStats


class Match(msgspec.Struct, frozen=True, kw_only=True):
    """The longest cached prefix. Its blocks stay readable until the lease ends."""

    blocks: tuple[BlockId, ...] = ()
    num_tokens: int = 0
    lease: LeaseId | None = None
    """None exactly when nothing matched."""


class PoolLedger:
    """All state of one pool, changed only through these methods; each does all of its work or none."""

    def __init__(
        self,
        *,
        block_size: int,
        capacity: Mapping[Tier, int],
        clock: Clock,
        eviction: EvictionPolicy | None = None,
        keeping: Keeping = DEFAULT_KEEPING,
    ) -> None:
        self.block_size = block_size
        self._keeping = keeping
        self._clock = clock
        self._stock = BlockStock(capacity)
        self._index = RadixIndex(block_size=block_size)
        self._eviction = eviction or LeastRecentlyUsed()
        self._queue = EvictionQueue(self._eviction)
        self._holds = HoldBook()
        self._active = ActiveBlocks(self._holds)
        self._events = EventLog()
        self._room = RoomMaker(stock=self._stock, index=self._index, queue=self._queue, events=self._events)
        self._moves = TierMoves(
            room=self._room,
            stock=self._stock,
            index=self._index,
            queue=self._queue,
            holds=self._holds,
            events=self._events,
        )
        self.cold = ColdEnds(queue=self._queue, index=self._index, room=self._room)
        self.disk = DiskIndex(stock=self._stock, index=self._index, adopt=self._adopt_stored)
        self.mirror = EngineMirror(block_size=block_size, events=self._events)
        self.pins = PinBook(index=self._index, stock=self._stock, room=self._room, keeping=keeping, clock=clock)

    def __repr__(self) -> str:
        tiers = "; ".join(
            f"{s.tier.name} {s.num_free} free, {s.num_reserved} reserved, {s.num_cached} cached of {s.num_blocks}"
            for s in self.stats()
        )
        return f"PoolLedger({tiers}; {self.num_leases} leases, {len(self._moves)} swaps)"

    # ------------------------------------------------------------ active blocks

    def allocate(self, num_blocks: int, *, tier: Tier, owner: str, ttl_s: float | None = None) -> tuple[BlockId, ...]:
        """Active blocks of `owner`, until freed, inserted, or ttl_s seconds after the owner's last sign.

        Evicts when short. Raises PoolExhausted when leases and active blocks leave too few, InvalidBlocks
        below 1, InvalidLease for an impossible ttl_s; nothing has changed then.
        """
        deadline = deadline_after(self._clock.now(), ttl_s)
        if self._room.is_short(num_blocks, tier):
            self.expire()
            blocks = self._room.take(num_blocks, tier, BlockState.ACTIVE)
        else:
            blocks = self._stock.take(num_blocks, tier, BlockState.ACTIVE)
        self._active.add(blocks, owner=owner, deadline=deadline)
        return blocks

    def free(self, blocks: Sequence[BlockId]) -> None:
        """Give active blocks back. Raises InvalidBlocks, and frees none, if any is not active or named twice."""
        if self._active.remove_whole(blocks):  # all of one tier, each once
            self._stock.give_back(blocks, BlockState.ACTIVE, tier=block_tier(blocks[0]))
            return
        require_distinct(blocks)
        self._active.require(blocks)
        self._active.remove(blocks)
        self._stock.give_back(blocks, BlockState.ACTIVE)

    # ------------------------------------------------------------ the index

    def insert(
        self, tokens: Tokens, blocks: Sequence[BlockId], *, namespace: Namespace = b"", ttl_s: float | None = None
    ) -> Insertion:
        """Index the first len(blocks) whole blocks of tokens: active blocks become historical.

        They are named for ttl_s seconds, longer where they were to be named for longer; None: as the pool's settings
        say, math.inf: until evicted or deleted.

        Where the prefix is indexed already, `blocks` may name the very same blocks, or active copies,
        which are freed at once and come back as duplicates, or ids that are no longer in use, which are
        passed over: repeating an insert changes nothing. Only a copy on disk gives way to one that is not.
        Raises InvalidTokens when tokens are too few, InvalidBlocks when a block is neither active nor in
        its place, InvalidLease for an impossible ttl_s.
        """
        deadline = deadline_after(self._clock.now(), self._keeping.ttl_s if ttl_s is None else ttl_s)
        data = self._index.whole_blocks(tokens, num_blocks=len(blocks))
        place = self._index.find(data, namespace=namespace)
        held = place.blocks if place else []
        new = blocks[len(held) :]
        duplicates = active_copies(blocks, new=new, held=held, active=self._active, state=self.state)
        self._room.lifetimes.prolong(held, deadline)
        if new:
            self._room.lifetimes.begin(new, deadline)
            self._active.remove(new)
            self._stock.states.move(new, BlockState.ACTIVE, BlockState.HISTORICAL)
            self._adopt(self._index.graft(place, data, new, namespace=namespace))
            self._announce_stored(data, new, namespace)
        elif place:
            self._queue.used(place.node)
        self._eviction.stored(data, width=self._index.block_token_bytes, namespace=namespace)
        faster = faster_copies(blocks, held, active=self._active) if duplicates else {}
        duplicates = tuple(block for block in duplicates if block not in faster)
        self._active.remove((*duplicates, *faster))
        self._moves.replace([(old, new) for new, old in faster.items()])
        self._stock.give_back(duplicates, BlockState.ACTIVE)
        return Insertion(num_new=len(new), duplicates=duplicates)

    def match(self, tokens: Tokens, *, owner: str, namespace: Namespace = b"", ttl_s: float | None = None) -> Match:
        """The longest cached prefix in whole blocks, under a lease of `owner`; an empty one takes no lease.

        Raises InvalidLease for an impossible ttl_s.
        """
        now = self._clock.now()
        deadline = deadline_after(now, ttl_s)
        self._room.expire(now)
        data = self._index.whole_blocks(tokens)
        place = self._index.find(data, namespace=namespace)
        self._eviction.looked_up(data, width=self._index.block_token_bytes, namespace=namespace)
        if place is None:
            return Match()
        self._queue.used(place.node)
        anchor = self._index.anchor(place)
        self._room.protected.add(len(place.blocks))
        lease = Lease(id=self._holds.new_id(), owner=owner, deadline=deadline, anchor=anchor)
        self._holds.open(lease)
        blocks = tuple(place.blocks)
        return Match(blocks=blocks, num_tokens=len(blocks) * self.block_size, lease=lease.id)

    def delete(self, tokens: Tokens, *, namespace: Namespace = b"") -> int:
        """Drop the entry of the last whole block of tokens and all below it; the number of entries dropped.

        Leased blocks are unindexed at once and reused after the last release. Raises InvalidTokens below
        one whole block.
        """
        pruned = self._index.prune_at(tokens, namespace=namespace)
        if pruned.blocks:
            data = self._index.whole_blocks(tokens)
            self._room.unindexed(pruned)
            self._events.evicted(namespace=namespace, tokens=data, num_blocks=len(pruned.blocks))
        return len(pruned.blocks)

    def discard(self, blocks: Iterable[BlockId]) -> int:
        """Drop the entries of blocks whose bytes are lost, and all below them; the number of entries dropped.

        Blocks that are not indexed are passed over.
        """
        num_dropped = 0
        for block in blocks:
            if self.state(block) is BlockState.HISTORICAL:
                num_dropped += self._room.prune(*self._index.locate(block))
        return num_dropped

    # ------------------------------------------------------------ leases and owners

    def release(self, lease: LeaseId) -> None:
        """End a lease. Nothing happens when it has ended."""
        hold = self._holds.find(lease)
        if isinstance(hold, Lease):
            self._end(hold)

    def extend(self, owner: str, *, ttl_s: float) -> None:
        """Leases and active blocks of this owner live for at least ttl_s seconds from now."""
        self._holds.extend(owner, deadline=deadline_after(self._clock.now(), ttl_s))

    def release_owner(self, owner: str) -> None:
        """End all leases and free all active blocks of an owner that is dead or gave up."""
        for hold in self._holds.held_by(owner):
            self._end(hold)

    def expire(self) -> int:
        """End what is past its deadline; the number of leases, allocations and indexed blocks ended."""
        now = self._clock.now()
        past = self._holds.expired(now)
        for hold in past:
            self._end(hold)
        return len(past) + self._room.expire(now)

    # ------------------------------------------------------------ moves between tiers

    def begin_swap(self, num_blocks: int, *, source: Tier, target: Tier) -> Swap:
        """Choose that many unleased historical blocks of `source`, and room for them in `target`.

        Raises PoolExhausted when either has too few, InvalidBlocks for fewer than 1 or the same tier.
        """
        self._expire_when_short(num_blocks, target)
        return self._moves.begin(num_blocks, source=source, target=target)

    def begin_swap_in(self, blocks: Sequence[BlockId], *, target: Tier) -> Swap:
        """Make room in `target` for these historical blocks of other tiers.

        Raises InvalidBlocks for a block that is not indexed, there already or on the move, PoolExhausted.
        """
        self._expire_when_short(len(blocks), target)
        return self._moves.begin_with(blocks, target=target)

    def finish_swap(self, swap: Swap, *, failed: Set[BlockId] = frozenset()) -> int:
        """The bytes are copied, those of `failed` sources excepted; returns how many blocks have moved.

        The index names the targets, the sources go as soon as no lease reads them. A block that was deleted
        meanwhile stays deleted, one on its way to disk that is leased by now stays where it is. Raises
        InvalidBlocks when the swap is not open.
        """
        return self._moves.finish(swap, failed=failed)

    def cancel_swap(self, swap: Swap) -> None:
        """Nothing was copied: the targets are free again. Nothing happens when the swap is not open."""
        self._moves.cancel(swap)

    # ------------------------------------------------------------ the size of a tier

    def shrink(self, num_blocks: int, *, tier: Tier) -> tuple[BlockId, ...]:
        """Do without so many blocks of the tier, evicting when short; which, for their memory to be given back.

        Raises PoolExhausted when leases and active blocks are in the way, InvalidBlocks below 1; nothing has
        changed then.
        """
        blocks = self._room.take(num_blocks, tier, BlockState.ACTIVE)
        self._stock.retire(blocks, BlockState.ACTIVE)
        return blocks

    def grow(self, positions: Collection[int], *, tier: Tier) -> None:
        """The tier has memory for blocks at these positions, too."""
        self._stock.allocators[tier].extend(positions)

    # ------------------------------------------------------------ what is going on

    @property
    def num_leases(self) -> int:
        return sum(1 for _ in self._holds.anchors())

    def stats(self) -> tuple[TierStats, ...]:
        """One record a tier; free, reserved and cached blocks add up to all. HBM may be a mirrored engine's."""
        return (*self.mirror.stats(), *(self._tier_stats(tier) for tier in self._stock.allocators))

    def num_over(self, tier: Tier, share: float) -> int:
        """How many more blocks of a tier are in use than this share of it; 0 or less when there are none."""
        num_blocks = self._stock.allocators[tier].num_blocks if tier in self._stock.allocators else 0
        return num_blocks - self._stock.num_free(tier) - int(share * num_blocks)

    def num_held(self, tier: Tier) -> int:
        """Blocks of the tier that can neither be used nor evicted now: in use, leased, pinned or on the move."""
        stats = self._tier_stats(tier)
        return stats.num_reserved + self._room.protected.exact(tier)

    def state(self, block: BlockId) -> BlockState:
        """FREE for an id that no longer names a block of this pool, or never did."""
        return self._stock.states.state(block)

    def in_none_of(self, blocks: Collection[BlockId], allowed: Collection[BlockState]) -> Collection[BlockId]:
        """Those of `blocks` that are in none of these states, FREE not being one."""
        return self._stock.states.in_none_of(blocks, allowed)

    def take_events(self) -> tuple[PoolEvent, ...]:
        """What happened to the index since the last call, oldest first."""
        return self._events.take()

    def snapshot(self) -> IndexSnapshot:
        """All that the index names, for a reader that missed events; linear in the number of blocks."""
        return IndexSnapshot(self._index, seq=self._events.last_seq, mirror=self.mirror.index)

    def check(self) -> None:
        """Raise InvariantError unless everything fits together; linear in the size of the pool."""
        expected = {
            BlockState.ACTIVE: self._active.blocks(),
            BlockState.HISTORICAL: [block for node in self._index.nodes() for block in node.blocks],
            BlockState.DETACHED: self._stock.readers.keys(),
            BlockState.RECEIVING: self._moves.targets,
        }
        check_stock(self._stock, expected)
        check_index(self._index, [*self._holds.anchors(), *self._moves.anchors(), *self.pins.anchors()])
        check_queued(self._index)

    # ------------------------------------------------------------ inside

    def _tier_stats(self, tier: Tier) -> TierStats:
        num_blocks, num_free = self._stock.allocators[tier].num_blocks, self._stock.num_free(tier)
        num_cached = self._stock.num_cached(tier)
        return TierStats(
            tier=tier,
            num_blocks=num_blocks,
            num_free=num_free,
            num_reserved=num_blocks - num_free - num_cached,
            num_cached=num_cached,
            num_leased=num_protected(self._holds.anchors(), tier),
            num_pinned=self.pins.num_pinned(tier),
        )

    def _expire_when_short(self, num_blocks: int, tier: Tier) -> None:
        """What has outlived its time goes before anything is evicted."""
        if self._room.is_short(num_blocks, tier):
            self.expire()

    def _adopt_stored(self, run: StoredRun, blocks: list[BlockId]) -> None:
        place = self._index.find(run.tokens, namespace=run.namespace)
        self._adopt(self._index.graft(place, run.tokens, blocks, namespace=run.namespace))
        self._room.lifetimes.begin(blocks, deadline_after(self._clock.now(), self._keeping.ttl_s))
        self._announce_stored(run.tokens, blocks, run.namespace)

    def _adopt(self, nodes: Iterable[Node]) -> None:
        """Queue new nodes, and count the insert as a use of the path to the first."""
        first, *_ = nodes = tuple(nodes)
        self._queue.inserted(first)
        for node in nodes:
            for tier, _ in by_tier(node.blocks):
                self._queue.add(node, tier)

    def _announce_stored(self, data: bytes, new: Sequence[BlockId], namespace: Namespace) -> None:
        end = len(data) - len(new) * self._index.block_token_bytes
        for tier, num_blocks in tier_runs(new):
            end += num_blocks * self._index.block_token_bytes
            self._events.stored(namespace=namespace, tokens=data[:end], num_blocks=num_blocks, tier=tier)

    def _end(self, hold: Hold) -> None:
        if isinstance(hold, Lease):
            self._holds.close(hold)
            self._room.drop_anchor(hold.anchor)
        elif isinstance(hold, Allocation):
            left = self._active.left_of(hold)
            self._active.remove(left)
            self._stock.give_back(left, BlockState.ACTIVE)

"""The ledger under arbitrary calls, against two plain pictures of it.

The first is the memory itself: what was written where. Whatever a lease or a match names must hold
the tokens it was matched for, so a block that is reused too early shows at once. The second is a set
of prefixes kept from the events alone: a match must find exactly the longest of them.
"""

from itertools import count

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from memserve.core.clock import ManualClock
from memserve.core.enums import Tier
from memserve.core.errors import InvalidBlocks, PoolExhausted, QuotaExceeded
from memserve.core.ids import BlockId, LeaseId, PinId, block_index, block_tier
from memserve.pool.events import BlocksEvicted, BlocksMoved, BlocksStored
from memserve.pool.eviction import eviction_policy
from memserve.pool.ledger import PoolLedger
from memserve.pool.swap import Swap

BLOCK = 2
CAPACITY = {Tier.HBM: 6, Tier.DRAM: 10, Tier.DISK: 7}
Prompt = tuple[int, ...]
Key = tuple[bytes, bytes]

# A few prompts that part at different blocks, cut anywhere: most calls meet what earlier ones left.
prompts = st.builds(
    lambda text, length: tuple(ord(letter) for letter in text[:length] for _ in range(BLOCK)),
    st.sampled_from(["aaaaaaa", "aaaabbb", "aaabbbb", "abbbbbb", "bbbbbbb"]),
    st.integers(0, 7),
)
namespaces = st.sampled_from([b"", b"", b"", b"tenant"])
owners = st.sampled_from(["a", "b"])
tiers = st.sampled_from(list(Tier))
moves = st.permutations(list(Tier))
ttls = st.sampled_from([None, 1.0, 5.0])


class LedgerAgainstMemory(RuleBasedStateMachine):
    @initialize(policy=st.sampled_from(["lru", "fifo", "lfu"]))
    def start(self, policy: str) -> None:
        self.clock = ManualClock()
        self.ledger = PoolLedger(
            block_size=BLOCK, capacity=CAPACITY, clock=self.clock, eviction=eviction_policy(policy)
        )
        self.memory: dict[tuple[Tier, int], object] = {}
        self.indexed: set[Key] = set()
        self.active: dict[BlockId, tuple[str, float]] = {}
        self.leases: dict[LeaseId, tuple[str, float, list[tuple[BlockId, Key]]]] = {}
        self.swaps: list[Swap] = []
        self.pinned: dict[PinId, set[Key]] = {}
        self.capacity = dict(CAPACITY)
        self.gone: set[tuple[Tier, int]] = set()
        self.num_events = 0
        self.fresh = count()

    # ------------------------------------------------------------ calls

    @rule(number=st.integers(1, 8), tier=tiers, owner=owners, ttl_s=ttls)
    def allocate(self, number: int, tier: Tier, owner: str, ttl_s: float | None) -> None:
        stats = next(s for s in self.ledger.stats() if s.tier is tier)
        num_held = self.ledger.num_held(tier)
        try:
            blocks = self.ledger.allocate(number, tier=tier, owner=owner, ttl_s=ttl_s)
        except PoolExhausted:
            after = next(s for s in self.ledger.stats() if s.tier is tier)
            assert after.num_cached >= stats.num_cached, "evicted for nothing"
            if not self.swaps:
                assert stats.num_reserved + max(stats.num_leased, stats.num_pinned) <= num_held
                assert number > stats.num_blocks - num_held
            return
        assert len(blocks) == number
        for block in blocks:
            assert block_tier(block) is tier
            self.write(block, next(self.fresh))
            self.active[block] = (owner, self.deadline(ttl_s))

    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        blocks = data.draw(st.lists(st.sampled_from(sorted(self.active)), unique=True)) if self.active else []
        self.ledger.free(blocks)
        for block in blocks:
            del self.active[block]
        for block in blocks:
            with pytest.raises(InvalidBlocks):
                self.ledger.free([block])

    @rule(prompt=prompts, namespace=namespaces, reuse=st.booleans(), again=st.booleans())
    def insert(self, prompt: Prompt, namespace: bytes, reuse: bool, again: bool) -> None:
        number = len(prompt) // BLOCK
        match = self.ledger.match(prompt, owner="inserter", namespace=namespace)
        same = match.blocks if reuse else ()
        mine = tuple(sorted(self.active))[: number - len(same)]
        blocks = same + mine
        if len(blocks) < number:
            prompt, number = prompt[: len(blocks) * BLOCK], len(blocks)
        for block, key in zip(blocks, keys(namespace, prompt), strict=True):
            self.write(block, key)
        insertion = self.ledger.insert(tokens(prompt), blocks, namespace=namespace)
        assert insertion.num_new == max(0, number - len(match.blocks))
        held = zip(match.blocks, mine, strict=False)
        slower = {new for old, new in held if block_tier(old) is Tier.DISK and block_tier(new) is not Tier.DISK}
        assert insertion.duplicates == (() if reuse else tuple(b for b in mine[: len(match.blocks)] if b not in slower))
        if again:
            assert self.ledger.insert(prompt, blocks, namespace=namespace).num_new == 0
        for block in mine:
            del self.active[block]
        if match.lease is not None:
            self.ledger.release(match.lease)

    @rule(prompt=prompts.filter(bool), namespace=namespaces, tier=tiers, ttl_s=ttls)
    def compute_and_insert(self, prompt: Prompt, namespace: bytes, tier: Tier, ttl_s: float | None) -> None:
        match = self.ledger.match(prompt, owner="inserter", namespace=namespace)
        number = len(prompt) // BLOCK - len(match.blocks)
        try:
            new = self.ledger.allocate(number, tier=tier, owner="inserter") if number else ()
        except PoolExhausted:
            new = ()
        for block, key in zip(new, keys(namespace, prompt)[len(match.blocks) :], strict=False):
            self.write(block, key)
        insertion = self.ledger.insert(prompt, match.blocks + new, namespace=namespace, ttl_s=ttl_s)
        assert insertion.num_new == len(new)
        if match.lease is not None:
            self.ledger.release(match.lease)

    @rule(prompt=prompts, namespace=namespaces, owner=owners, ttl_s=ttls)
    def match(self, prompt: Prompt, namespace: bytes, owner: str, ttl_s: float | None) -> None:
        self.follow_events()
        match = self.ledger.match(prompt, owner=owner, namespace=namespace, ttl_s=ttl_s)
        asked = keys(namespace, prompt)
        longest = next((i for i, key in enumerate(asked) if key not in self.indexed), len(asked))
        assert len(match.blocks) == longest
        assert match.num_tokens == longest * BLOCK
        assert (match.lease is None) == (longest == 0)
        if match.lease is not None:
            read = list(zip(match.blocks, asked[:longest], strict=True))
            self.leases[match.lease] = (owner, self.deadline(ttl_s), read)

    @rule(prompt=prompts.filter(bool), namespace=namespaces)
    def delete(self, prompt: Prompt, namespace: bytes) -> None:
        self.follow_events()
        whole = tokens(prompt)
        for held in self.pinned.values():
            held -= {key for key in held if key[0] == namespace and key[1].startswith(whole)}
        below = {key for key in self.indexed if key[0] == namespace and key[1].startswith(whole)}
        assert self.ledger.delete(prompt, namespace=namespace) == len(below)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(sorted(self.leases)))
        del self.leases[lease]
        self.ledger.release(lease)
        self.ledger.release(lease)

    @rule(owner=owners)
    def release_owner(self, owner: str) -> None:
        self.ledger.release_owner(owner)
        self.forget(lambda whose, _: whose == owner)

    @rule(owner=owners, ttl_s=st.sampled_from([1.0, 9.0]))
    def extend(self, owner: str, ttl_s: float) -> None:
        self.ledger.extend(owner, ttl_s=ttl_s)
        until = self.clock.now() + ttl_s
        self.active = {b: (w, max(d, until) if w == owner else d) for b, (w, d) in self.active.items()}
        self.leases = {i: (w, max(d, until) if w == owner else d, r) for i, (w, d, r) in self.leases.items()}

    @rule(seconds=st.sampled_from([0.5, 2.0, 6.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.ledger.expire()
        now = self.clock.now()
        self.forget(lambda _, deadline: deadline <= now)

    @rule(number=st.integers(1, 4), move=moves)
    def begin_swap(self, number: int, move: list[Tier]) -> None:
        source, target, _ = move
        try:
            swap = self.ledger.begin_swap(number, source=source, target=target)
        except PoolExhausted:
            return
        assert all(block_tier(s) is source and block_tier(t) is target for s, t in swap.pairs)
        leased = {block for _, _, read in self.leases.values() for block, _ in read}
        assert not leased & {s for s, _ in swap.pairs}, "a leased block was chosen to move"
        self.begun(swap, number)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), tier=tiers)
    def begin_swap_in(self, data: st.DataObject, tier: Tier) -> None:
        _, _, read = self.leases[data.draw(st.sampled_from(sorted(self.leases)))]
        blocks = [block for block, _ in read if block_tier(block) is not tier]
        try:
            self.begun(self.ledger.begin_swap_in(blocks, target=tier), len(blocks))
        except (PoolExhausted, InvalidBlocks):
            return

    @precondition(lambda self: self.swaps)
    @rule(data=st.data(), finish=st.booleans())
    def end_swap(self, data: st.DataObject, finish: bool) -> None:
        swap = self.swaps.pop(data.draw(st.integers(0, len(self.swaps) - 1)))
        if finish:
            failed = data.draw(st.sets(st.sampled_from([source for source, _ in swap.pairs])))
            for source, target in swap.pairs:
                if source not in failed:
                    self.write(target, self.memory[slot(source)])
            assert self.ledger.finish_swap(swap, failed=failed) <= len(swap.pairs) - len(failed)
            with pytest.raises(InvalidBlocks, match="not open"):
                self.ledger.finish_swap(swap)
        else:
            self.ledger.cancel_swap(swap)
        self.ledger.cancel_swap(swap)

    @rule(number=st.integers(1, 4), tier=tiers)
    def shrink(self, number: int, tier: Tier) -> None:
        try:
            blocks = self.ledger.shrink(number, tier=tier)
        except PoolExhausted:
            return
        for block in blocks:
            self.gone.add(slot(block))
            self.memory[slot(block)] = "no memory"
            with pytest.raises(InvalidBlocks):
                self.ledger.free([block])
        self.capacity[tier] -= number

    @rule(number=st.integers(1, 4), tier=tiers)
    def grow(self, number: int, tier: Tier) -> None:
        positions = sorted(index for where, index in self.gone if where is tier)[:number]
        self.ledger.grow(positions, tier=tier)
        self.gone -= {(tier, index) for index in positions}
        self.capacity[tier] += len(positions)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        _, _, read = self.leases[data.draw(st.sampled_from(sorted(self.leases)))]
        lost = data.draw(st.lists(st.sampled_from([block for block, _ in read])))
        num_indexed = len(self.indexed)
        num_dropped = self.ledger.discard(lost)
        self.follow_events()
        assert len(self.indexed) == num_indexed - num_dropped
        for held in self.pinned.values():
            held.intersection_update(self.indexed)
        assert self.ledger.discard(lost) == 0

    @rule(prompt=prompts.filter(bool), namespace=namespaces)
    def pin(self, prompt: Prompt, namespace: bytes) -> None:
        before = {pinned.pin: pinned for pinned in self.ledger.pins}
        try:
            pinned = self.ledger.pins.pin(prompt, namespace=namespace)
        except QuotaExceeded:
            assert {pinned.pin: pinned for pinned in self.ledger.pins} == before
            return
        self.follow_events()
        asked = keys(namespace, prompt)
        longest = next((i for i, key in enumerate(asked) if key not in self.indexed), len(asked))
        assert pinned.num_blocks == longest
        if longest:
            self.pinned[pinned.pin] = set(asked[:longest])

    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        if self.pinned:
            gone = data.draw(st.sampled_from(sorted(self.pinned)))
            assert self.ledger.pins.unpin(gone)
            del self.pinned[gone]

    # ------------------------------------------------------------ what must hold

    @invariant()
    def everything_fits_together(self) -> None:
        self.ledger.check()
        self.follow_events()
        for s in self.ledger.stats():
            assert s.num_free + s.num_reserved + s.num_cached == s.num_blocks == self.capacity[s.tier]
            assert 0 <= s.num_leased <= s.num_cached
        assert self.ledger.num_leases == len(self.leases)
        assert sum(s.num_cached for s in self.ledger.stats()) == len(self.indexed)
        assert repr(self.ledger)

    @invariant()
    def what_is_pinned_is_indexed(self) -> None:
        assert {pinned.pin: pinned.num_blocks for pinned in self.ledger.pins} == {
            pin: len(held) for pin, held in self.pinned.items()
        }
        pinned = set().union(*self.pinned.values())
        assert pinned <= self.indexed
        assert sum(s.num_pinned for s in self.ledger.stats()) == len(pinned)

    @invariant()
    def what_a_lease_reads_stays_as_it_was(self) -> None:
        for _, _, read in self.leases.values():
            for block, key in read:
                assert self.memory[slot(block)] == key, "the bytes under a lease were reused"

    def teardown(self) -> None:
        if not hasattr(self, "ledger"):
            return
        for swap in self.swaps:
            self.ledger.cancel_swap(swap)
        for pin in self.pinned:
            self.ledger.pins.unpin(pin)
        for owner in ("a", "b"):
            self.ledger.release_owner(owner)
        assert self.ledger.num_leases == 0
        for tier, number in self.capacity.items():
            self.ledger.free(self.ledger.allocate(number, tier=tier, owner="last") if number else ())
        self.ledger.check()
        assert [s.num_free for s in self.ledger.stats()] == list(self.capacity.values())

    # ------------------------------------------------------------ the pictures

    def write(self, block: BlockId, what: object) -> None:
        assert slot(block) not in self.gone, "a block without memory was handed out"
        self.memory[slot(block)] = what

    def deadline(self, ttl_s: float | None) -> float:
        return float("inf") if ttl_s is None else self.clock.now() + ttl_s

    def begun(self, swap: Swap, number: int) -> None:
        assert len(swap.pairs) == number
        for _, target in swap.pairs:
            self.write(target, next(self.fresh))
        self.swaps.append(swap)

    def forget(self, ended: object) -> None:
        assert callable(ended)
        self.active = {b: (w, d) for b, (w, d) in self.active.items() if not ended(w, d)}
        self.leases = {i: (w, d, r) for i, (w, d, r) in self.leases.items() if not ended(w, d)}

    def follow_events(self) -> None:
        for event in self.ledger.take_events():
            self.num_events += 1
            assert event.seq == self.num_events
            if isinstance(event, BlocksStored):
                size = BLOCK * 4
                ends = range(size, len(event.tokens) + 1, size)
                self.indexed |= {(event.namespace, event.tokens[:end]) for end in ends}
            elif isinstance(event, BlocksEvicted):
                gone = {k for k in self.indexed if k[0] == event.namespace and k[1].startswith(event.tokens)}
                assert len(gone) == event.num_blocks
                self.indexed -= gone
            else:
                assert isinstance(event, BlocksMoved)
                assert (event.namespace, event.tokens) in self.indexed


TestLedgerAgainstMemory = LedgerAgainstMemory.TestCase
TestLedgerAgainstMemory.settings = settings(max_examples=250, stateful_step_count=50, deadline=None)


def slot(block: BlockId) -> tuple[Tier, int]:
    return block_tier(block), block_index(block)


def tokens(prompt: Prompt) -> bytes:
    return np.array(prompt, dtype="<i4").tobytes()


def keys(namespace: bytes, prompt: Prompt) -> list[Key]:
    return [(namespace, tokens(prompt[: end + BLOCK])) for end in range(0, len(prompt), BLOCK)]

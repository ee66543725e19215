"""What the instances announce, applied to the prompt trees; what cannot be true is counted and left out.

Owns how far each instance's events have been applied, and the counts. Asks nobody: its answers say where
to go on, whoever reads the events asks for them.

    admit ──> snapshot needed ── reset (all parts) ──> following ── apply ──> following
                    ^                                      │
                    └── a new reset, or nothing heard for max_lag_s      forget, from anywhere
"""

from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from itertools import zip_longest

import msgspec

from memserve.core.clock import Clock
from memserve.core.enums import Role, Tier
from memserve.core.ids import Incarnation, InstanceId
from memserve.scheduler.prompt_tree import ANNOUNCED_S, PromptTree
from memserve.scheduler.tokens import TOKEN_BYTES
from memserve.wire.events import (
    Applied,
    BlocksEvicted,
    BlocksMoved,
    BlocksStored,
    EventBatch,
    IndexEntry,
    IndexEvent,
    SnapshotPart,
)

MAX_NAMESPACE_BYTES = 256
"""Longer ones are not ours."""


class EventKind(StrEnum):
    STORED = "stored"
    EVICTED = "evicted"
    MOVED = "moved"
    SNAPSHOT = "snapshot"
    """A whole snapshot, not its entries."""


class Discard(StrEnum):
    """Why something that was announced changed nothing."""

    UNKNOWN_INSTANCE = "unknown-instance"
    OLDER_INCARNATION = "older-incarnation"
    BACKWARDS = "sequence-backwards"
    """Applied before, or repeated."""
    GAP = "sequence-gap"
    """What came before is missing; it is asked for again."""
    UNANNOUNCED = "unannounced-eviction"
    """The end or a move of blocks that are not in the tree: never announced, or dropped when the tree was full."""
    MALFORMED = "malformed"
    """Tokens that are no whole blocks or continue what was not told; a namespace that is none."""


class FeedStats(msgspec.Struct, frozen=True, kw_only=True):
    instance: InstanceId
    incarnation: Incarnation
    position: int | None
    """Number of the last event applied; None while a snapshot is needed."""
    lag_s: float
    """The instance's index was certainly pictured as it was so many seconds ago, or later."""
    num_events: dict[EventKind, int]


class EventStats(msgspec.Struct, frozen=True, kw_only=True):
    feeds: tuple[FeedStats, ...]
    discarded: dict[tuple[InstanceId, Discard], int]
    """Those of instances that are not followed are counted for the instance ""."""


class _Feed:
    """One incarnation that is followed."""

    def __init__(self, *, incarnation: Incarnation, tree: PromptTree, mirror: PromptTree, now: float) -> None:
        self.incarnation = incarnation
        self.tree = tree
        self.mirror = mirror
        self.position: int | None = None
        self.snapshot: int | None = None  # seq of the snapshot that is coming in
        self.confirmed_at = now
        self.num_stored = self.num_evicted = self.num_moved = self.num_snapshots = 0

    def tree_of(self, told: BlocksStored | BlocksEvicted | IndexEntry) -> PromptTree:
        return self.mirror if told.is_mirrored else self.tree

    def forget(self, instance: InstanceId) -> None:
        self.tree.forget(instance)
        self.mirror.forget(instance)

    def num_events(self) -> dict[EventKind, int]:
        return {
            EventKind.STORED: self.num_stored,
            EventKind.EVICTED: self.num_evicted,
            EventKind.MOVED: self.num_moved,
            EventKind.SNAPSHOT: self.num_snapshots,
        }


class EventFeeds:
    """All instances that tell of their index."""

    def __init__(
        self,
        trees: Mapping[Role, PromptTree],
        mirrors: Mapping[Role, PromptTree],
        *,
        block_size: int,
        clock: Clock,
        max_lag_s: float,
    ) -> None:
        """`trees` take what pools hold, `mirrors` what engines hold for themselves.

        After `max_lag_s` seconds in which an instance did not tell all there is, what it told is forgotten.
        """
        self._trees = trees
        self._mirrors = mirrors
        self._max_lag_s = max_lag_s
        self._width = block_size * TOKEN_BYTES
        self._clock = clock
        self._feeds: dict[InstanceId, _Feed] = {}
        self._discarded: Counter[tuple[InstanceId, Discard]] = Counter()

    def admit(self, instance: InstanceId, incarnation: Incarnation, role: Role) -> None:
        """Follow this incarnation in this role; what an older one held is forgotten, an older one is ignored.

        One that has changed its role begins with a snapshot as if it were new.
        """
        known = self._feeds.get(instance)
        if known is not None and known.incarnation > incarnation:
            return
        if known is not None and known.incarnation == incarnation and known.tree is self._trees[role]:
            return
        for tree in (*self._trees.values(), *self._mirrors.values()):
            tree.forget(instance)
        self._feeds[instance] = _Feed(
            incarnation=incarnation, tree=self._trees[role], mirror=self._mirrors[role], now=self._clock.now()
        )

    def forget(self, instance: InstanceId, incarnation: Incarnation | None) -> bool:
        """Follow it no longer (None: whichever incarnation). False, and nothing happens, when a newer one is here."""
        known = self._feeds.get(instance)
        if known is not None and incarnation is not None and known.incarnation > incarnation:
            return False
        self._feeds.pop(instance, None)
        for reason in Discard:
            self._discarded.pop((instance, reason), None)
        return True

    def is_followed(self, instance: InstanceId) -> bool:
        """Its events tell what it holds, so nothing else has to be believed for long."""
        feed = self._feeds.get(instance)
        return feed is not None and feed.position is not None

    def apply(self, batch: EventBatch) -> Applied:
        """Events that follow each other; those out of order change nothing. An empty batch says: still none."""
        feed = self._feeds.get(batch.instance)
        if feed is None or feed.incarnation != batch.incarnation:
            return self._refused(batch, max(1, len(batch.events)))
        discarded: Counter[Discard] = Counter()
        for event in batch.events:
            reason = self._next(batch.instance, feed, event)
            if reason is not None:
                discarded[reason] += 1
        if batch.as_of is not None and feed.position is not None and not discarded[Discard.GAP]:
            feed.confirmed_at = max(feed.confirmed_at, batch.as_of)
        elif feed.position is not None and self._clock.now() - feed.confirmed_at > self._max_lag_s:
            feed.forget(batch.instance)
            feed.position = None
        return self._applied(batch.instance, feed, discarded)

    def reset(self, part: SnapshotPart) -> Applied:
        """The first part forgets what was known of the instance, the last one makes its events welcome."""
        feed = self._feeds.get(part.instance)
        if feed is None or feed.incarnation != part.incarnation:
            return self._refused(part, 1)
        discarded: Counter[Discard] = Counter()
        if part.is_first:
            feed.forget(part.instance)
            feed.snapshot = part.seq
            feed.position = None
        elif feed.snapshot != part.seq:
            return self._applied(part.instance, feed, Counter({Discard.GAP: 1}))
        discarded[Discard.MALFORMED] = self._insert_all(part.instance, feed, part.entries)
        if part.is_last:
            feed.position, feed.snapshot = part.seq, None
            feed.confirmed_at = self._clock.now()
            feed.num_snapshots += 1
        return self._applied(part.instance, feed, discarded)

    def stats(self) -> EventStats:
        now = self._clock.now()
        feeds = tuple(
            FeedStats(
                instance=instance,
                incarnation=feed.incarnation,
                position=feed.position,
                lag_s=max(0.0, now - feed.confirmed_at),
                num_events=feed.num_events(),
            )
            for instance, feed in self._feeds.items()
        )
        return EventStats(feeds=feeds, discarded=dict(self._discarded))

    def __repr__(self) -> str:
        following = sum(feed.position is not None for feed in self._feeds.values())
        return f"EventFeeds({following} of {len(self._feeds)} followed, {sum(self._discarded.values())} discarded)"

    def _next(self, instance: InstanceId, feed: _Feed, event: IndexEvent) -> Discard | None:
        if feed.position is None or event.seq > feed.position + 1:
            return Discard.GAP
        if event.seq <= feed.position:
            return Discard.BACKWARDS
        feed.position = event.seq
        if not event.tokens or len(event.tokens) % self._width or len(event.namespace) > MAX_NAMESPACE_BYTES:
            return Discard.MALFORMED
        match event:
            case BlocksStored():
                feed.tree_of(event).insert(instance, event.tokens, event.namespace, keep_s=ANNOUNCED_S)
                if event.tier is not Tier.DRAM and not event.is_mirrored:
                    feed.tree.put(instance, event.tokens, event.namespace, num_blocks=event.num_blocks, tier=event.tier)
                feed.num_stored += 1
            case BlocksEvicted():
                feed.num_evicted += 1
                if not feed.tree_of(event).remove(instance, event.tokens, event.namespace):
                    return Discard.UNANNOUNCED
            case BlocksMoved():
                feed.num_moved += 1
                known = feed.tree.put(
                    instance, event.tokens, event.namespace, num_blocks=event.num_blocks, tier=event.target
                )
                if not known:
                    return Discard.UNANNOUNCED
        return None

    def _insert_all(self, instance: InstanceId, feed: _Feed, entries: tuple[IndexEntry, ...]) -> int:
        """The number of entries that made no sense. Ends of paths are inserted, and with them what is before."""
        num_malformed, prompt = 0, b""
        placed: list[tuple[bytes, IndexEntry]] = []
        for entry, following in zip_longest(entries, entries[1:]):
            whole = bool(entry.tokens) and not (len(entry.tokens) % self._width or entry.at % self._width)
            if not whole or not 0 <= entry.at <= len(prompt) or len(entry.namespace) > MAX_NAMESPACE_BYTES:
                num_malformed += 1
                prompt = b""
                continue
            prompt = prompt[: entry.at] + entry.tokens
            if not entry.is_mirrored and any(run.tier is not Tier.DRAM for run in entry.tiers):
                placed.append((prompt, entry))
            if following is None or following.at != len(prompt):
                feed.tree_of(entry).insert(instance, prompt, entry.namespace, keep_s=ANNOUNCED_S)
                self._place(instance, feed, placed)
                placed.clear()
        return num_malformed

    def _place(self, instance: InstanceId, feed: _Feed, placed: list[tuple[bytes, IndexEntry]]) -> None:
        """Runs of blocks that are in the tree by now, told with the prompts that they end."""
        for prompt, entry in placed:
            end = len(prompt)
            for run in reversed(entry.tiers):
                if run.tier is not Tier.DRAM:
                    feed.tree.put(instance, prompt[:end], entry.namespace, num_blocks=run.num_blocks, tier=run.tier)
                end = max(0, end - max(0, run.num_blocks) * self._width)

    def _refused(self, told: EventBatch | SnapshotPart, number: int) -> Applied:
        known = self._feeds.get(told.instance)
        if known is None or known.incarnation < told.incarnation:
            self._discarded[InstanceId(""), Discard.UNKNOWN_INSTANCE] += number
            return Applied(position=None, discarded={Discard.UNKNOWN_INSTANCE: number})
        self._discarded[told.instance, Discard.OLDER_INCARNATION] += number
        return Applied(position=None, discarded={Discard.OLDER_INCARNATION: number})

    def _applied(self, instance: InstanceId, feed: _Feed, discarded: Counter[Discard]) -> Applied:
        counted = {str(reason): number for reason, number in discarded.items() if number}
        for reason, number in discarded.items():
            if number:
                self._discarded[instance, reason] += number
        return Applied(position=feed.position, discarded=counted)

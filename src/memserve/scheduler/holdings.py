"""What the instances hold, as far as is known: prompt trees per role, fed by announcements and by responses.

One tree is of what pools hold, another one of what engines hold for themselves in HBM.

Owns the trees and the event feeds. What a response told is believed for `ttl_s`, or only for `confirm_s` when
the instance announces what it holds: then its own events confirm it soon, or it is not so. What an instance is only
about to compute may be counted on there, and nobody can pull it yet.

    admit ──> reset ──> apply ...      of one instance that announces what it holds
    forget                             of one instance, when it left or came back empty
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from memserve.core.clock import Clock
from memserve.core.enums import Role, Tier
from memserve.core.ids import Incarnation, InstanceId
from memserve.scheduler.event_feeds import EventFeeds, EventStats
from memserve.scheduler.flight import Asked, Place
from memserve.scheduler.prompt_tree import NOTHING_HELD, Level, PromptTree, PromptTreeStats, Walk
from memserve.scheduler.slots import Slots
from memserve.scheduler.tokens import TOKEN_BYTES
from memserve.wire.events import Applied, EventBatch, SnapshotPart
from memserve.wire.identity import Namespace


class Held(NamedTuple):
    """Who holds how much of one prompt: levels as of a Walk, the shortest first, of all roles asked for."""

    levels: Sequence[Level]
    """In the pool, in the engine's own prefix cache or about to be computed, whichever has most: an engine uses all."""
    in_pools: Sequence[Level]
    """In the pool or about to be computed."""
    ready: Sequence[Level]
    """That others can have: what only an engine's own cache holds or is still being computed, nobody else can read."""
    in_engines: Sequence[Level]
    in_dram: bool
    """Whatever pools hold of it is in DRAM."""


class Holdings:
    def __init__(
        self, *, block_size: int, clock: Clock, slots: Slots, ttl_s: float, confirm_s: float, max_tree_blocks: int
    ) -> None:
        """`block_size` in tokens, `max_tree_blocks` per role."""
        self._confirm_s = confirm_s
        self._ttl_s = ttl_s
        self._slots = slots
        self._trees, self._mirrors = (
            {
                role: PromptTree(
                    block_size=block_size, clock=clock, slots=slots, ttl_s=ttl_s, max_blocks=max_tree_blocks
                )
                for role in Role
            }
            for _ in range(2)
        )
        self._feeds = EventFeeds(self._trees, self._mirrors, block_size=block_size, clock=clock, max_lag_s=ttl_s)

    def match(self, kinds: Sequence[Role], asked: Asked) -> Held:
        """What instances of these roles hold of the prompt."""
        pools, ready, in_dram = _walk(self._trees, kinds, asked)
        engines = _walk(self._mirrors, kinds, asked).levels
        return Held(sorted([*pools, *engines]) if engines else pools, pools, ready, engines, in_dram)

    def tiers(self, place: Place, asked: Asked, held: Held, *, matched: int) -> dict[Tier, int]:
        """Where this instance has the `matched` tokens that it holds of the prompt, as `match` just found it.

        What the engine holds itself, it takes from there: the pool's copy of it does not count.
        """
        if held.in_dram and not held.in_engines:
            return {Tier.DRAM: matched} if matched else {}
        bit = self._slots.find(place.instance)
        in_pool, in_engine = tokens_of(held.in_pools, bit), tokens_of(held.in_engines, bit)
        rest = self._pool_tiers(place, asked, in_pool, held)
        if in_engine:
            covered = self._pool_tiers(place, asked, min(in_engine, in_pool), held)
            rest = {tier: num_tokens - covered.get(tier, 0) for tier, num_tokens in rest.items()}
            rest[Tier.HBM] = rest.get(Tier.HBM, 0) + in_engine
        return {tier: num_tokens for tier, num_tokens in rest.items() if num_tokens}

    def believe(self, place: Place, tokens: bytes, namespace: Namespace) -> None:
        """This instance holds these tokens, as a response told.

        Of one that announces what it holds, others can have them only once it does: its engine comes first, its pool
        a moment later.
        """
        if self._feeds.is_followed(place.instance):
            self.expect(place, tokens, namespace, within_s=self._confirm_s)
        else:
            self._trees[place.role].insert(place.instance, tokens, namespace, keep_s=self._ttl_s)

    def expect(self, place: Place, tokens: bytes, namespace: Namespace, *, within_s: float) -> None:
        """This instance is about to compute these tokens: then it holds them."""
        keep_s = min(within_s, self._ttl_s)
        self._trees[place.role].insert(place.instance, tokens, namespace, keep_s=keep_s, is_coming=True)

    def admit(self, instance: InstanceId, incarnation: Incarnation, role: Role) -> None:
        """This incarnation will announce what it holds. What an older one held is forgotten; an older one ignored."""
        self._feeds.admit(instance, incarnation, role)

    def apply(self, batch: EventBatch) -> Applied:
        """Take announcements in. Never raises for what they say: what cannot be is counted, and left out."""
        return self._feeds.apply(batch)

    def reset(self, part: SnapshotPart) -> Applied:
        """Take in a part of all that an instance holds; the first part replaces what was known of it."""
        return self._feeds.reset(part)

    def forget(self, instance: InstanceId, incarnation: Incarnation | None) -> None:
        """Entries that a newer incarnation than `incarnation` has announced stay; None is newer than all."""
        if self._feeds.forget(instance, incarnation):
            for tree in (*self._trees.values(), *self._mirrors.values()):
                tree.forget(instance)
            self._slots.release(instance)

    def event_stats(self) -> EventStats:
        return self._feeds.stats()

    def tree_stats(self) -> dict[Role, PromptTreeStats]:
        return {role: tree.stats() for role, tree in self._trees.items()}

    def _pool_tiers(self, place: Place, asked: Asked, num_tokens: int, held: Held) -> dict[Tier, int]:
        """Of that many leading tokens, all of which its pool holds."""
        if held.in_dram:
            return {Tier.DRAM: num_tokens}
        return self._trees[place.role].tiers(place.instance, asked.data[: num_tokens * TOKEN_BYTES], asked.namespace)

    def __repr__(self) -> str:
        return f"Holdings({self._trees}, {self._feeds})"


def tokens_of(levels: Sequence[Level], bit: int) -> int:
    """What one instance holds."""
    for num_tokens, holders in reversed(levels):
        if holders & bit:
            return num_tokens
    return 0


def longest(levels: Sequence[Level], among: int) -> Level:
    """The most that any of these holds, and who of them does; 0 tokens and nobody where none holds anything."""
    if levels and (len(levels) == 1 or levels[-2][0] < levels[-1][0]) and (found := levels[-1][1] & among):
        return levels[-1][0], found
    most, who = 0, 0
    for num_tokens, holders in reversed(levels):
        if num_tokens < most:
            break
        if found := holders & among:
            most, who = num_tokens, who | found
    return most, who


def _walk(trees: Mapping[Role, PromptTree], kinds: Sequence[Role], asked: Asked) -> Walk:
    """Usually prompts of one namespace are held by instances of one role or two, and by no engine for itself."""
    tokens, namespace = asked.data, asked.namespace
    found = NOTHING_HELD
    for role in kinds:
        walk = trees[role].walk(tokens, namespace)
        if not found.levels:
            found = walk
        elif walk.levels:
            levels, ready = sorted(found.levels + walk.levels), sorted(found.ready + walk.ready)
            found = Walk(tuple(levels), tuple(ready), found.in_dram and walk.in_dram)
    return found

"""What the instances hold, as far as is known: prompt trees per role, fed by announcements and by responses.

One tree is of what pools hold, another one of what engines hold for themselves in HBM.

Owns the trees and the event feeds. What a response told is believed for `ttl_s`, or only for `confirm_s` when
the instance announces what it holds: then its own events confirm it soon, or it is not so. What an instance is only
about to compute stands with what engines hold for themselves: it may be counted on there, and nobody can pull it yet.

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
from memserve.scheduler.prompt_tree import PromptTree, PromptTreeStats
from memserve.scheduler.tokens import TOKEN_BYTES
from memserve.wire.events import Applied, EventBatch, SnapshotPart
from memserve.wire.identity import Namespace


class Held(NamedTuple):
    """Leading tokens of one prompt by instance; those that hold none are left out."""

    tokens: dict[InstanceId, int]
    """In the pool, in the engine's own prefix cache or about to be computed, whichever has most: an engine uses all."""
    in_pools: dict[InstanceId, int]
    """That others can have: what only an engine's own cache holds or is still being computed, nobody else can read."""


class Holdings:
    def __init__(self, *, block_size: int, clock: Clock, ttl_s: float, confirm_s: float, max_tree_blocks: int) -> None:
        """`block_size` in tokens, `max_tree_blocks` per role."""
        self._confirm_s = confirm_s
        self._ttl_s = ttl_s
        self._trees, self._mirrors = (
            {
                role: PromptTree(block_size=block_size, clock=clock, ttl_s=ttl_s, max_blocks=max_tree_blocks)
                for role in Role
            }
            for _ in range(2)
        )
        self._feeds = EventFeeds(self._trees, self._mirrors, block_size=block_size, clock=clock, max_lag_s=ttl_s)

    def match(self, kinds: Sequence[Role], asked: Asked) -> Held:
        """Leading tokens of the prompt that each instance of these roles holds; those that hold none are left out."""
        in_pools = _match(self._trees, kinds, asked)
        held = in_pools
        for instance, num_tokens in _match(self._mirrors, kinds, asked).items():
            if num_tokens > held.get(instance, 0):
                held = {**held, instance: num_tokens}
        return Held(tokens=held, in_pools=in_pools)

    def tiers(self, place: Place, asked: Asked) -> dict[Tier, int]:
        """Where this instance has what it holds of the beginning of the prompt, in tokens.

        What the engine holds itself, it takes from there: the pool's copy of it does not count.
        """
        tree, instance = self._trees[place.role], place.instance
        found = tree.tiers(instance, asked.data, asked.namespace)
        in_engine = self._mirrors[place.role].match(asked.data, asked.namespace).get(instance, 0)
        if not in_engine:
            return found
        covered = tree.tiers(instance, asked.data[: in_engine * TOKEN_BYTES], asked.namespace)
        rest = {tier: num_tokens - covered.get(tier, 0) for tier, num_tokens in found.items()}
        rest[Tier.HBM] = rest.get(Tier.HBM, 0) + in_engine
        return {tier: num_tokens for tier, num_tokens in rest.items() if num_tokens}

    def believe(self, place: Place, tokens: bytes, namespace: Namespace) -> None:
        """This instance holds these tokens, as a response told."""
        keep_s = self._confirm_s if self._feeds.is_followed(place.instance) else self._ttl_s
        self._trees[place.role].insert(place.instance, tokens, namespace, keep_s=min(keep_s, self._ttl_s))

    def expect(self, place: Place, tokens: bytes, namespace: Namespace, *, within_s: float) -> None:
        """This instance is about to compute these tokens: then it holds them."""
        self._mirrors[place.role].insert(place.instance, tokens, namespace, keep_s=min(within_s, self._ttl_s))

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

    def event_stats(self) -> EventStats:
        return self._feeds.stats()

    def tree_stats(self) -> dict[Role, PromptTreeStats]:
        return {role: tree.stats() for role, tree in self._trees.items()}

    def __repr__(self) -> str:
        return f"Holdings({self._trees}, {self._feeds})"


def _match(trees: Mapping[Role, PromptTree], kinds: Sequence[Role], asked: Asked) -> dict[InstanceId, int]:
    role, *others = kinds
    held = trees[role].match(asked.data, asked.namespace)
    for other in others:
        held.update(trees[other].match(asked.data, asked.namespace))
    return held

"""Prompt tree: which instances hold which prefix, for all instances of a role at once.

A path-compressed radix tree over whole blocks of tokens. A node stands for a run of blocks and
names its holders as bits of one integer (slots.py), so a single walk answers for every instance:

    root ── run "b0 b1 b2", holders {A, B} ──┬── run "b3", holders {A}
                                             └── run "b4 b5", holders {B}

A holds b0..b3 and B holds b0 b1 b2 b4 b5. Whoever holds a node holds its ancestors: an insert
confirms the whole path, so a child is never fresher than its parent. A node also tells which of its holders
have it in another tier than DRAM; runs are cut where a tier ends.

Owns the entries and their age. Never knows whether the bytes are still there: an entry that nobody
confirmed for `ttl_s` is gone (the TTL of arXiv 2406.17565, which bounds what no event told), one that an
instance announced stays until it announces the end, and beyond `max_blocks` the least recently used
leaves go. An entry too many costs a recomputation, never a wrong answer.
"""

from collections import OrderedDict
from typing import NamedTuple

import msgspec

from memserve.core.clock import Clock
from memserve.core.enums import Tier
from memserve.core.ids import InstanceId
from memserve.scheduler.prompt_node import PromptNode, common_bytes
from memserve.scheduler.slots import Slots
from memserve.scheduler.tokens import TOKEN_BYTES
from memserve.wire.identity import Namespace

ANNOUNCED_S = float("inf")
"""How long to keep what an instance has announced: until it announces that it is gone."""

_GROW_BLOCKS = 32
"""A leaf of one instance takes additions into its own run up to this size: an answer makes no chain of nodes."""


class PromptTreeStats(msgspec.Struct, frozen=True, kw_only=True):
    num_blocks: int
    """Distinct blocks, however many instances hold each."""
    num_nodes: int
    num_instances: int
    num_namespaces: int


Level = tuple[int, int]
"""Leading tokens, whole blocks, and who holds so many, as bits of Slots; those that hold more are among them."""


class Walk(NamedTuple):
    """One prompt, as far as anybody holds it."""

    levels: tuple[Level, ...]
    """The shortest first."""
    ready: tuple[Level, ...]
    """The same without what is only expected."""
    in_dram: bool
    """All that was passed is in DRAM, whoever holds it."""


NOTHING_HELD = Walk(levels=(), ready=(), in_dram=True)


class PromptTree:
    """One role's tree. Prompts are int32 bytes; whole blocks count, a partial one at the end does not."""

    def __init__(self, *, block_size: int, clock: Clock, slots: Slots, ttl_s: float, max_blocks: int) -> None:
        """`block_size` in tokens; `max_blocks` bounds the distinct blocks over all namespaces."""
        self._width = block_size * TOKEN_BYTES
        self._clock = clock
        self._ttl_s = ttl_s
        self._max_blocks = max_blocks
        self._num_blocks = 0
        self._roots: dict[Namespace, PromptNode] = {}
        # Least recently used first. A path is touched from its end to its start, so the first is always a leaf.
        self._used: OrderedDict[PromptNode, None] = OrderedDict()
        self._slots = slots
        self._known = 0  # bits of those that were told of

    def match(self, tokens: bytes, namespace: Namespace = b"") -> dict[InstanceId, int]:
        """Leading tokens that each instance holds, whole blocks only; those that hold none are left out."""
        found: dict[InstanceId, int] = {}
        for num_tokens, holders in self.walk(tokens, namespace).levels:
            found.update(dict.fromkeys(self._slots.names(holders), num_tokens))
        return found

    def walk(self, tokens: bytes, namespace: Namespace = b"") -> Walk:
        """Who holds how much of the prompt: a level for each depth at which some end."""
        root = self._roots.get(namespace)
        if root is None:
            return NOTHING_HELD
        width = self._width
        end = len(tokens) - len(tokens) % width
        levels: list[Level] = []
        in_dram, coming = True, 0
        node, at, mask = root, 0, 0
        while at < end and (child := node.children.get(tokens[at : at + width])) is not None:
            if child.check_at != ANNOUNCED_S and not self._keeps(child):
                break
            if at and mask != child.mask:
                levels.append((at // TOKEN_BYTES, mask))
            node, mask, run = child, child.mask, child.run
            coming |= child.coming
            if child.elsewhere is not None:
                in_dram = False
            if not tokens.startswith(run, at):
                at += common_bytes(run, tokens, at, end, width)
                break
            at += len(run)
        self._touch(node)
        if at:
            levels.append((at // TOKEN_BYTES, mask))
        known = tuple(levels)
        return Walk(known, self._ready(root, tokens, at) if coming else known, in_dram)

    def _ready(self, node: PromptNode, tokens: bytes, end: int) -> tuple[Level, ...]:
        """Levels down to `end`, as far as they are not only expected."""
        levels: list[Level] = []
        at, holders = 0, 0
        while at < end:
            node = node.children[tokens[at : at + self._width]]
            sure = node.mask & ~node.coming
            if at and sure != holders:
                levels.append((at // TOKEN_BYTES, holders))
            if not sure:
                return tuple(levels)
            at, holders = min(at + len(node.run), end), sure
        return (*levels, (at // TOKEN_BYTES, holders))

    def insert(
        self,
        instance: InstanceId,
        tokens: bytes,
        namespace: Namespace = b"",
        *,
        keep_s: float | None = None,
        is_coming: bool = False,
    ) -> None:
        """Confirm that `instance` holds all whole blocks of the prompt, from now on for `keep_s` (None: `ttl_s`).

        What is confirmed for longer already stays so. With `is_coming` it is only expected to hold them soon.
        """
        width = self._width
        end = len(tokens) - len(tokens) % width
        if not end:
            return
        bit = self._slots.give(instance)
        self._known |= bit
        expires = self._clock.now() + (self._ttl_s if keep_s is None else keep_s)
        node = self._roots.get(namespace) or self._new_root(namespace)
        at = 0
        while at < end:
            child = node.children.get(tokens[at : at + width])
            if child is None:
                node = self._append(node, tokens[at:end], bit, expires, is_coming=is_coming)
                node.hold(bit, expires, is_coming=is_coming)
                break
            if not tokens.startswith(child.run, at):
                child = self._split(child, common_bytes(child.run, tokens, at, end, width))
            if child.coming or child.holders.get(bit, 0.0) < expires:
                child.hold(bit, expires, is_coming=is_coming)
            at += len(child.run)
            node = child
        self._touch(node)
        while self._num_blocks > self._max_blocks:
            self._drop(next(iter(self._used)))

    def put(
        self, instance: InstanceId, tokens: bytes, namespace: Namespace = b"", *, num_blocks: int, tier: Tier
    ) -> bool:
        """`instance` has the last `num_blocks` whole blocks of `tokens` in `tier`. False when not all are known."""
        node = self._roots.get(namespace)
        bit = self._slots.find(instance)
        width = self._width
        end = len(tokens) - len(tokens) % width
        first, at = end - num_blocks * width, 0
        while node is not None and at < end:
            child = node.children.get(tokens[at : at + width])
            if child is None or not child.mask & bit:
                return False
            size = agreed = common_bytes(child.run, tokens, at, end, width)
            if at + agreed < end and agreed < len(child.run):
                return False
            if child.tier(bit) is not tier and first < at + agreed:
                size = first - at if at < first else agreed
                child = self._split(child, size)
                if at >= first:
                    child.put(bit, tier)
            at += size
            node = child
        return node is not None

    def tiers(self, instance: InstanceId, tokens: bytes, namespace: Namespace = b"") -> dict[Tier, int]:
        """Where `instance` has what it holds of the beginning of the prompt, in tokens."""
        node = self._roots.get(namespace)
        bit = self._slots.find(instance)
        found: dict[Tier, int] = {}
        at = 0
        while node is not None:
            child = node.children.get(tokens[at : at + self._width])
            if child is None or not child.mask & bit:
                break
            all_of_it = tokens.startswith(child.run, at)  # the usual case, one comparison
            agreed = len(child.run) if all_of_it else common_bytes(child.run, tokens, at, len(tokens), self._width)
            tier = child.tier(bit)
            found[tier] = found.get(tier, 0) + agreed // TOKEN_BYTES
            node = child if agreed == len(child.run) else None
            at += agreed
        return found

    def remove(self, instance: InstanceId, tokens: bytes, namespace: Namespace = b"") -> bool:
        """`instance` lost the last whole block of `tokens`, and so all that follows it; what is before stays.

        False when it was not known to hold that block.
        """
        node = self._roots.get(namespace)
        bit = self._slots.find(instance)
        end = len(tokens) - len(tokens) % self._width
        last = end - self._width
        at = 0
        while node is not None and at <= last:
            child = node.children.get(tokens[at : at + self._width])
            if child is None or not child.mask & bit:
                return False
            agreed = common_bytes(child.run, tokens, at, end, self._width)
            if at + agreed == end:
                if child.mask == bit and last > at:
                    self._shorten(child, last - at)
                else:
                    self._split(child, last - at)  # child keeps the part from `last` on
                    self._release(child, bit)
                return True
            node = child if agreed == len(child.run) else None
            at += agreed
        return False

    def forget(self, instance: InstanceId) -> None:
        """`instance` left or came back empty: all its entries vanish."""
        bit = self._slots.find(instance)
        if not self._known & bit:
            return
        self._known &= ~bit
        for node in list(self._used):
            if node.mask & bit and node in self._used:
                self._unhold(node, bit)

    def stats(self) -> PromptTreeStats:
        return PromptTreeStats(
            num_blocks=self._num_blocks,
            num_nodes=len(self._used),
            num_instances=self._known.bit_count(),
            num_namespaces=len(self._roots),
        )

    def __repr__(self) -> str:
        blocks = f"{self._num_blocks}/{self._max_blocks} blocks"
        return f"PromptTree({blocks}, {len(self._used)} nodes, {self._known.bit_count()} instances)"

    def _new_root(self, namespace: Namespace) -> PromptNode:
        root = self._roots[namespace] = PromptNode(namespace, None)
        return root

    def _touch(self, node: PromptNode) -> None:
        touch = self._used.move_to_end
        while (parent := node.parent) is not None:
            touch(node)
            node = parent

    def _append(self, parent: PromptNode, run: bytes, bit: int, expires: float, *, is_coming: bool) -> PromptNode:
        """A node that ends with `run`: a new child, or `parent` itself, grown, if all of it is held alike."""
        self._num_blocks += len(run) // self._width
        fits = len(parent.run) + len(run) <= _GROW_BLOCKS * self._width
        alike = parent.mask == bit and parent.elsewhere is None and bool(parent.coming) is is_coming
        if fits and alike and not parent.children and parent.holders[bit] == expires:
            parent.run += run
            return parent
        node = PromptNode(run, parent)
        parent.children[run[: self._width]] = node
        self._used[node] = None
        return node

    def _split(self, lower: PromptNode, size: int) -> PromptNode:
        """Cut `size` leading bytes off into a new parent of `lower`, which keeps children and place in the order."""
        parent = lower.parent
        if parent is None or not 0 < size < len(lower.run):
            return lower
        upper = PromptNode(lower.run[:size], parent)
        upper.holders = dict(lower.holders)
        upper.mask = lower.mask
        upper.coming = lower.coming
        upper.check_at = lower.check_at
        upper.elsewhere = lower.elsewhere  # never changed in place
        parent.children[upper.run[: self._width]] = upper
        lower.run = lower.run[size:]
        lower.parent = upper
        upper.children[lower.run[: self._width]] = lower
        self._used[upper] = None
        return upper

    def _shorten(self, node: PromptNode, size: int) -> None:
        """Take everything after the first `size` bytes of its run out of the tree."""
        for below in list(node.children.values()):
            self._drop(below)
        self._num_blocks -= (len(node.run) - size) // self._width
        node.run = node.run[:size]

    def _keeps(self, node: PromptNode) -> bool:
        """Let go of holders that nobody confirmed in time; False when none is left and the node went."""
        now = self._clock.now()
        if node.check_at > now:
            return True
        for bit in [bit for bit, expires in node.holders.items() if expires <= now]:
            self._unhold(node, bit)
        node.check_at = min(node.holders.values(), default=float("inf"))
        return bool(node.mask)

    def _release(self, top: PromptNode, bit: int) -> None:
        waiting = [top]
        while waiting:
            node = waiting.pop()
            waiting.extend(node.children.values())
            if node.mask & bit:
                self._unhold(node, bit)

    def _unhold(self, node: PromptNode, bit: int) -> None:
        del node.holders[bit]
        node.mask &= ~bit
        node.coming &= ~bit
        if node.elsewhere is not None:
            node.put(bit, Tier.DRAM)
        if not node.mask:
            self._drop(node)

    def _drop(self, top: PromptNode) -> None:
        """Take the node and all below it out; without holders here there can be none below."""
        if top not in self._used:
            return
        if top.parent is not None:
            self._cut(top, top.parent)
        waiting = [top]
        while waiting:
            node = waiting.pop()
            waiting.extend(node.children.values())
            del self._used[node]
            self._num_blocks -= len(node.run) // self._width

    def _cut(self, node: PromptNode, parent: PromptNode) -> None:
        del parent.children[node.run[: self._width]]
        if parent.parent is None and not parent.children:
            del self._roots[parent.run]

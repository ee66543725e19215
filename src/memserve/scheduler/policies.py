"""How instances are weighed against each other for one request: lower scores are better.

A policy is one method. The scheduler takes one of those with the lowest score, at random among equals,
so that many idle instances share the work. One policy object weighs the candidates of one phase.

    find_policy ──> one that comes along, or a class of that name which an installed package offers as an
                    entry point of the group "memserve.policies" (docs/policies.md)
"""

from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from operator import add
from random import Random
from typing import Protocol

import msgspec
import xxhash

from memserve.core.errors import ConfigError
from memserve.core.ids import InstanceId

ENTRY_POINTS = "memserve.policies"
"""Group under which other packages offer policies."""

_LEAST_PREFIX = 0.1
"""Share of a prompt below which a held prefix is not worth a place in a queue."""


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """One request and its candidates: entry i of each list belongs to instance i; at least one."""

    prompt_tokens: int
    session: str
    """What the client calls its conversation; "" for none."""
    instances: Sequence[InstanceId]
    matched: Sequence[int]
    """Leading prompt tokens that the instance holds."""
    queued: Sequence[int]
    """Tokens that it still has to do for others."""
    used: Sequence[int]
    """Tokens in those blocks of its pool that are held for somebody, as its last heartbeat told."""

    def loads(self) -> list[int]:
        """Of each instance: what it still has to compute, and what it has to keep and read meanwhile."""
        return [*map(add, self.queued, self.used)]


class Policy(Protocol):
    """Made with the scheduler's Random, which is the only one to draw from."""

    def scores(self, choice: Choice) -> list[float]:
        """One score per instance, in order."""
        ...


class RoundRobin:
    """Each in turn, whatever it holds or has to do."""

    def __init__(self, random: Random) -> None:
        self._turn = -1

    def scores(self, choice: Choice) -> list[float]:
        self._turn += 1
        count = len(choice.instances)
        return [float((i - self._turn) % count) for i in range(count)]


class LeastLoad:
    """Fewest tokens to compute and to keep."""

    def __init__(self, random: Random) -> None:
        pass

    def scores(self, choice: Choice) -> list[float]:
        return [float(load) for load in choice.loads()]


class Session:
    """The same instance for all requests of a session (rendezvous hashing); by load without a session.

    When an instance leaves, only its own sessions move.
    """

    def __init__(self, random: Random) -> None:
        self._without = LeastLoad(random)

    def scores(self, choice: Choice) -> list[float]:
        if not choice.session:
            return self._without.scores(choice)
        return [float(xxhash.xxh3_64_intdigest(f"{choice.session}\0{i}".encode())) for i in choice.instances]


class PowerOfTwo:
    """The less loaded of two drawn at random: near to least-load without everyone seeing the same minimum."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def scores(self, choice: Choice) -> list[float]:
        count = len(choice.instances)
        drawn = self._random.sample(range(count), min(2, count))
        loads = choice.loads()
        return [float(loads[i]) if i in drawn else float("inf") for i in range(count)]


class PromptTreePolicy:
    """argmin over (tokens queued + own tokens not held): the choice of arXiv 2406.17565, counted in tokens.

    The paper sums predicted execution times; tokens to compute stand for them here, which orders
    instances of one kind the same way as long as time grows with tokens. Two things are added, both shown by
    `memserve simulate` on recorded traces. Tokens not held delay everyone who queues behind, so they weigh more
    once the mean queue is longer than the prompt: a prompt held nowhere then weighs that queue more, which
    keeps conversations in their place under overload and lets no queue grow past about twice the mean for it.
    And a prefix of less than a tenth of the prompt counts as none: a short one that all share, such as a system
    prompt, would otherwise draw everyone to the first instance that held it.
    """

    def __init__(self, random: Random) -> None:
        pass

    def scores(self, choice: Choice) -> list[float]:
        own = choice.prompt_tokens
        worth = own * _LEAST_PREFIX
        crowd = sum(choice.queued) / len(choice.queued) / max(own, 1)
        weight = 1 + crowd if crowd > 1 else 1.0
        # Instances hold few different lengths: each is weighed once, not once an instance.
        lacking = {held: weight * (own - (held if held >= worth else 0)) for held in set(choice.matched)}
        return [*map(add, choice.queued, map(lacking.__getitem__, choice.matched))]


_BUILT_IN: dict[str, Callable[[Random], Policy]] = {
    "prompt-tree": PromptTreePolicy,
    "session": Session,
    "least-load": LeastLoad,
    "power-of-two": PowerOfTwo,
    "round-robin": RoundRobin,
}


class PolicyKind(msgspec.Struct, frozen=True, kw_only=True):
    """A policy that is at hand, by its name."""

    name: str
    make: Callable[[Random], Policy]


def find_policy(name: str) -> PolicyKind:
    """By the name a user types; a name that comes along cannot be taken by another package.

    Looks at what is installed and imports it, so it may take a while. Raises ConfigError that lists the known names,
    or that says why an offered policy cannot be loaded.
    """
    make = _BUILT_IN.get(name)
    return PolicyKind(name=name, make=make or _offered(name))


def known_policies() -> tuple[str, ...]:
    """All names that `find_policy` takes on this machine, sorted."""
    return tuple(sorted({*_BUILT_IN, *(entry.name for entry in entry_points(group=ENTRY_POINTS))}))


def _offered(name: str) -> Callable[[Random], Policy]:
    found = [entry for entry in entry_points(group=ENTRY_POINTS) if entry.name == name]
    if not found:
        raise ConfigError(f'policy "{name}" is not known: choose one of {", ".join(known_policies())}')
    try:
        make: Callable[[Random], Policy] = found[0].load()
        make(Random(0))  # noqa: S311 - only to see that it can be made
    except (ImportError, AttributeError, TypeError) as error:
        raise ConfigError(f'policy "{name}" is offered as {found[0].value}, which cannot be used: {error}') from error
    return make

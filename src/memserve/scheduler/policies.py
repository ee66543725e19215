"""How instances are weighed against each other for one request: lower scores are better.

A policy is one method. The scheduler takes one of those with the lowest score, at random among equals,
so that many idle instances share the work. One policy object weighs the candidates of one phase.
"""

from collections.abc import Callable, Sequence
from operator import add
from random import Random
from typing import Protocol

import msgspec
import xxhash

from memserve.core.errors import ConfigError
from memserve.core.ids import InstanceId

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


class Policy(Protocol):
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
    """Fewest queued tokens."""

    def __init__(self, random: Random) -> None:
        pass

    def scores(self, choice: Choice) -> list[float]:
        return [float(queued) for queued in choice.queued]


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
        return [float(choice.queued[i]) if i in drawn else float("inf") for i in range(count)]


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


_POLICIES: dict[str, Callable[[Random], Policy]] = {
    "prompt-tree": PromptTreePolicy,
    "session": Session,
    "least-load": LeastLoad,
    "power-of-two": PowerOfTwo,
    "round-robin": RoundRobin,
}


def policy(name: str, random: Random) -> Policy:
    """A fresh policy by the name a user types. Raises ConfigError that lists the known names."""
    make = _POLICIES.get(name)
    if make is None:
        raise ConfigError(f'policy "{name}" is not known: choose one of {", ".join(sorted(_POLICIES))}')
    return make(random)

"""Policies by name: how instances are weighed against each other for one request.

A policy is one method (choice.py). The scheduler takes one of those with the lowest score, at random among equals,
so that many idle instances share the work. One policy object weighs all candidates.

    find_policy ──> one that comes along, or a class of that name which an installed package offers as an
                    entry point of the group "memserve.policies" (docs/policies.md)
"""

from collections.abc import Sequence
from importlib.metadata import entry_points
from random import Random

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash

from memserve.core.errors import ConfigError
from memserve.core.ids import InstanceId
from memserve.scheduler.choice import Choice, MakePolicy
from memserve.scheduler.prompt_tree_policy import PromptTreePolicy

ENTRY_POINTS = "memserve.policies"
"""Group under which other packages offer policies."""


class RoundRobin:
    """Each in turn, whatever it holds or has to do."""

    def __init__(self, random: Random) -> None:
        self._turn = -1

    def scores(self, choice: Choice) -> npt.ArrayLike:
        self._turn += 1
        count = len(choice.instances)
        return (np.arange(count) - self._turn) % count


class LeastLoad:
    """Fewest tokens to compute and to keep."""

    def __init__(self, random: Random) -> None:
        pass

    def scores(self, choice: Choice) -> npt.ArrayLike:
        return choice.load


class Session:
    """The same instance for all requests of a session (rendezvous hashing); by load without a session.

    When an instance leaves, only its own sessions move.
    """

    def __init__(self, random: Random) -> None:
        self._without = LeastLoad(random)
        self._instances: Sequence[InstanceId] = ()
        self._digests = np.zeros(0, dtype=np.uint64)  # of these instances

    def scores(self, choice: Choice) -> npt.ArrayLike:
        if not choice.session:
            return self._without.scores(choice)
        if choice.instances != self._instances:
            self._instances = choice.instances
            self._digests = np.array([_digest(i) for i in choice.instances], dtype=np.uint64)
        return _mixed(self._digests ^ np.uint64(_digest(choice.session)))


class PowerOfTwo:
    """The less loaded of two drawn at random: near to least-load without everyone seeing the same minimum."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def scores(self, choice: Choice) -> npt.ArrayLike:
        count = len(choice.instances)
        drawn = self._random.sample(range(count), min(2, count))
        scores = np.full(count, np.inf)
        scores[drawn] = choice.load[drawn]
        return scores


def _digest(name: str) -> int:
    return xxhash.xxh3_64_intdigest(name.encode())


def _mixed(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Each bit depends on all: the finalizer of MurmurHash3 (Appleby), in place."""
    numbers ^= numbers >> 33
    numbers *= 0xFF51AFD7ED558CCD
    numbers ^= numbers >> 33
    numbers *= 0xC4CEB9FE1A85EC53
    numbers ^= numbers >> 33
    return numbers


_BUILT_IN: dict[str, MakePolicy] = {
    "prompt-tree": PromptTreePolicy,
    "session": Session,
    "least-load": LeastLoad,
    "power-of-two": PowerOfTwo,
    "round-robin": RoundRobin,
}


class PolicyKind(msgspec.Struct, frozen=True, kw_only=True):
    """A policy that is at hand, by its name."""

    name: str
    make: MakePolicy


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


def _offered(name: str) -> MakePolicy:
    found = [entry for entry in entry_points(group=ENTRY_POINTS) if entry.name == name]
    if not found:
        raise ConfigError(f'policy "{name}" is not known: choose one of {", ".join(known_policies())}')
    try:
        make: MakePolicy = found[0].load()
        make(Random(0))  # noqa: S311 - only to see that it can be made
    except (ImportError, AttributeError, TypeError) as error:
        raise ConfigError(f'policy "{name}" is offered as {found[0].value}, which cannot be used: {error}') from error
    return make

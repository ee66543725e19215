"""One instance for the whole request, or one for its prompt and another one for its answer.

Pure but for the policy's own memory. A policy that scores in seconds is asked for all three phases: the request goes
where the whole of it costs least, or to the pair whose two halves together cost less still. Any other policy ranks
those who may compute the prompt, and prefill instances hand over to the best of those who may decode.
"""

from collections.abc import Sequence
from random import Random
from typing import NamedTuple

import msgspec

from memserve.core.enums import Phase, Role
from memserve.scheduler.candidates import Candidates
from memserve.scheduler.choice import Policy
from memserve.scheduler.decision import Candidate
from memserve.scheduler.prospect import Prospect
from memserve.scheduler.shortlist import Shortlist
from memserve.scheduler.weighed import Best, Weighed
from memserve.scheduler.weighing import Weigher


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    first: Candidate
    """Computes the prompt."""
    decode: Candidate | None
    """Produces the answer; None: `first` does."""
    candidates: Sequence[Candidate]
    """Of each phase the chosen one, then the next best; first phase first."""


class _Pair(NamedTuple):
    first: Best
    decode: Best

    @property
    def score(self) -> float:
        return self.first[0] + self.decode[0]


class Policies(msgspec.Struct, frozen=True, kw_only=True):
    """Two of a kind, as either may remember what it did."""

    first: Policy
    """Weighs those who may compute the prompt."""
    decode: Policy


def plan(weigher: Weigher, policies: Policies, found: Candidates, prospect: Prospect, random: Random) -> Plan:
    """`found.first` must not be empty."""
    if getattr(policies.first, "in_seconds", False):
        return _cheapest(weigher, policies, found, prospect, random)
    first = weigher.weigh(policies.first, found.first, _first_phase(found), prospect)
    chosen = first.best(random)
    if first.places.group.roles[chosen[1]] is not Role.PREFILL or not found.decode.instances:
        return _alone(first, chosen)
    decode = weigher.weigh(policies.decode, found.decode, Phase.DECODE, prospect)
    return _split(first, decode, _Pair(chosen, decode.best(random)))


def _cheapest(weigher: Weigher, policies: Policies, found: Candidates, prospect: Prospect, random: Random) -> Plan:
    policy = policies.first
    whole = weigher.weigh(policy, found.whole, Phase.WHOLE, prospect) if found.whole.instances else None
    if not found.prefill.instances:
        assert whole is not None  # noqa: S101 - somebody is left, and no two can split a request
        return _alone(whole, whole.best(random))
    prefill = weigher.weigh(policy, found.prefill, Phase.PREFILL, prospect)
    decode = weigher.weigh(policies.decode, found.decode, Phase.DECODE, prospect)
    pair = _best_pair(prefill, decode, random)
    if whole is not None:
        chosen = whole.best(random)
        if chosen[0] <= pair.score:
            return _alone(whole, chosen)
    return _split(prefill, decode, pair)


def _best_pair(prefill: Weighed, decode: Weighed, random: Random) -> _Pair:
    """The two best, or the best two that are not the same."""
    first, second = prefill.best(random), decode.best(random)
    here, there = prefill.places.group.instances[first[1]], decode.places.group.instances[second[1]]
    if here != there:
        return _Pair(first, second)
    options = []
    if len(decode.places.group.instances) > 1:
        options.append(_Pair(first, decode.best(random, besides=here)))
    if len(prefill.places.group.instances) > 1:
        options.append(_Pair(prefill.best(random, besides=there), second))
    return min(options, key=lambda pair: pair.score)


def _alone(whole: Weighed, chosen: Best) -> Plan:
    return Plan(first=whole.candidate(chosen), decode=None, candidates=Shortlist((whole, chosen)))


def _split(prefill: Weighed, decode: Weighed, pair: _Pair) -> Plan:
    candidates = Shortlist((prefill, pair.first), (decode, pair.decode))
    return Plan(first=prefill.candidate(pair.first), decode=decode.candidate(pair.decode), candidates=candidates)


def _first_phase(found: Candidates) -> Phase:
    return Phase.PREFILL if found.prefill.instances and not found.whole.instances else Phase.WHOLE

"""One group of candidates weighed for one prompt: what each holds and has queued, its score, who is best.

Owns the choice among equals, by the injected Random, and nothing that lasts.
"""

from itertools import repeat
from random import Random

import msgspec

from memserve.core.errors import InvariantError
from memserve.core.ids import InstanceId
from memserve.scheduler.candidates import Group
from memserve.scheduler.decision import MAX_CANDIDATES, Candidate
from memserve.scheduler.flight import Asked
from memserve.scheduler.holdings import Holdings
from memserve.scheduler.load import LoadLedger
from memserve.scheduler.policies import Choice, Policy


class Weighed(msgspec.Struct, frozen=True, kw_only=True):
    """One group, weighed."""

    candidates: list[Candidate]
    """The chosen one, one of the best at random, and after it the next best."""
    holder: InstanceId
    """One of those that hold most of the prompt, the chosen one if it is among them."""
    held_tokens: int
    """What the holder has of the prompt."""


def weigh(
    policy: Policy, group: Group, asked: Asked, *, holdings: Holdings, load: LoadLedger, random: Random
) -> Weighed:
    """`group` must not be empty."""
    held = holdings.match(group.kinds, asked)
    matched = [*map(held.get, group.instances, repeat(0))]
    queued = load.queued(group.instances)
    choice = Choice(
        prompt_tokens=asked.num_tokens,
        session=asked.session,
        instances=group.instances,
        matched=matched,
        queued=queued,
        used=group.used,
    )
    scores = policy.scores(choice)
    if len(scores) != len(matched):
        raise InvariantError(f"{policy!r} gave {len(scores)} scores to {len(matched)} instances: give one to each")
    order = sorted(range(len(scores)), key=scores.__getitem__)
    best = order.pop(int(random.random() * scores.count(scores[order[0]])))
    most = max(matched)
    holder = group.instances[best]
    if most > matched[best]:
        holder = random.choice([i for i, m in zip(group.instances, matched, strict=True) if m == most])
    chosen = [
        Candidate(
            instance=group.instances[i],
            role=group.roles[i],
            matched_tokens=matched[i],
            queued_tokens=queued[i],
            score=scores[i],
        )
        for i in (best, *order[: MAX_CANDIDATES - 1])
    ]
    return Weighed(candidates=chosen, holder=holder, held_tokens=most)

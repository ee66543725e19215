"""Scores of a form that all instances share, so that few have to be looked at, or all at once by one small product.

    wait * max(wait_s, room_s)  +  compute_s * (decodes + crowd)  +  share * prefill_share  +  move_s  +  each * decodes
    +  answer * steps_s
    steps_s  =  (sequence * decodes + context * context_tokens + step) / (1 - prefill_share)
    room_s   =  max(context_tokens + too_much, 0) / max(context_tokens, 1) * steps_s

What differs between instances but for what they hold of the prompt are rows of the load table. Few lengths are held, so
what holding makes of `compute_s` and `move_s` is put in afterwards, one length after the other. Owns the form, and
nothing of what its numbers are: a policy gives them (prompt_tree_policy.py).
"""

from collections.abc import Sequence
from math import inf

import msgspec
import numpy as np

from memserve.core.enums import Phase
from memserve.scheduler.cost_model import DecodeTerms
from memserve.scheduler.load_table import CONTEXT, FEW, FORM, WAIT_S, GroupLoads, Numbers
from memserve.scheduler.places import Places

ROUNDED = 1.0 + 1e-9
"""Times a score: more than rounding makes of it."""
_NOT_TOLD_APART = 0.01
"""Of the seconds that the least computation costs: no prediction is as good as that, so a smaller difference would send
everybody to the same few of many idle instances."""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be scored, as far as it is the same for all instances. Times in predicted seconds."""

    phase: Phase
    """What the instance would do."""
    may_split: bool
    """Whether one instance may compute the prompt and another one produce the answer, or one both."""
    prompt_tokens: int
    output_tokens: float
    """What it is taken to produce."""
    whole_s: float
    """To compute all of the prompt, on an instance of the usual speed."""
    decode: DecodeTerms
    decode_pace: float
    """Seconds that steps take over those that the terms alone predict."""
    kv_capacity_tokens: int | None
    """Tokens whose KV an instance's device holds; None: not known."""
    mean_wait_s: float
    """Queued, over all instances; 0 stands for all that is certainly no more than `whole_s`."""
    most_context: float
    """Tokens of answers in progress on any one instance, or more where the prompt and its answer fit all the same."""


class ScoreTerms(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of the form above. Without `crowd` nothing is computed, with it nothing is moved."""

    wait: float
    crowd: float = 0.0
    share: float = 0.0
    each: float = 0.0
    sequence: float = 0.0
    context: float = 0.0
    step: float = 0.0
    answer: float = 1.0
    too_much: float = -inf


HeldAlike = tuple[int, int, float, float]
"""Tokens that some instances hold of the prompt, all equally many, these instances as bits, and what it costs them: the
seconds to compute at a pace of 1, and to move."""


ScoredAlike = tuple[float, int]
"""A score, and a bit for the place of each that has it."""


class FormScores:
    """One group's scores by one form, for as many instances as somebody asks for."""

    __slots__ = ("_alike", "_all", "_loads", "_places", "_slack_s", "_terms")

    def __init__(self, terms: ScoreTerms, loads: GroupLoads, places: Places, alike: Sequence[HeldAlike]) -> None:
        """All of the group are among those `alike`, most tokens first; bits of the last ones are not looked at."""
        self._terms = terms
        self._loads = loads
        self._places = places
        self._alike = alike
        self._all: Numbers | None = None
        # Whoever holds most has the least to compute.
        self._slack_s = _NOT_TOLD_APART * terms.crowd * alike[0][2] * loads.least_pace

    def few_best(self) -> list[ScoredAlike] | None:
        """Whose scores are the lowest, or as good as that, where a look at a few is enough to tell.

        Whoever holds as much cannot have a lower score than an idle instance of the fastest pace would have. None
        where one of the many might be best, unless it is known who of them is idle and nothing is to be computed.
        """
        terms, loads = self._terms, self._loads
        crowd, answer_s = terms.crowd, terms.answer * terms.step
        found: list[ScoredAlike] = []
        least, most = inf, inf
        for num_tokens, holders, compute_s, move_s in self._alike:
            idle = compute_s * crowd * loads.least_pace + move_s + answer_s
            if idle > most:
                continue
            if not num_tokens or holders.bit_count() > FEW:
                at_rest = 0 if crowd or num_tokens else loads.at_rest()
                if not at_rest:
                    return None
                # Whoever is at rest and holds something has less to be moved: it was looked at, and this is passed by.
                scored = [(idle, at_rest)]
            else:
                scored = self._scored(holders, compute_s, move_s)
            found += scored
            least = min(least, min(scored)[0])
            most = self.as_good_as(least)
        return [each for each in found if each[0] <= most]

    def _scored(self, holders: int, compute_s: float, move_s: float) -> list[ScoredAlike]:
        """Each of these, one after the other; there must be some."""
        terms, loads, by_bit = self._terms, self._loads, self._places.by_bit
        scored: list[ScoredAlike] = []
        while holders:
            place = by_bit[holders & -holders]
            holders &= holders - 1
            _, wait_s, pace, share, decodes, context = loads.one(place)
            steps_s = (terms.sequence * decodes + terms.context * context + terms.step) / (1.0 - share)
            lacking = context + terms.too_much
            if lacking > 0.0:
                wait_s = max(wait_s, lacking / max(context, 1.0) * steps_s)
            score = (
                terms.wait * wait_s
                + compute_s * pace * (decodes + terms.crowd)
                + terms.share * share
                + move_s
                + terms.each * decodes
                + terms.answer * steps_s
            )
            scored.append((score, 1 << place))
        return scored

    def as_good_as(self, score: float) -> float:
        return score * ROUNDED + self._slack_s

    def all(self) -> Numbers:
        """In order."""
        if self._all is None:
            self._all = self._told()
        return self._all

    def _told(self) -> Numbers:
        terms, rows, alike = self._terms, self._loads.rows(), self._alike
        # fmt: off
        matrix = np.array((  # wait_s, pace, pace * decodes, share, decodes, context, 1
            terms.wait, 0.0, 0.0, terms.share, terms.each, 0.0, 0.0,
            0.0, terms.crowd, 1.0, 0.0, 0.0, 0.0, 0.0,
            0.0, 0.0, 0.0, 0.0, terms.sequence, terms.context, terms.step,
            0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 1.0,
        ))
        # fmt: on
        scores: Numbers
        scores, delays, steps_s, rest = matrix.reshape(4, 7).dot(rows[FORM])
        steps_s /= rest
        if terms.too_much > -inf:
            scores += _beyond_s(terms, rows, steps_s)
        if terms.answer:
            scores += steps_s * terms.answer if terms.answer != 1.0 else steps_s
        if terms.crowd:
            delays *= self._prices([compute_s for _, _, compute_s, _ in alike])
            scores += delays
        else:
            scores += self._prices([move_s for _, _, _, move_s in alike])
        return scores

    def _prices(self, prices: list[float]) -> Numbers | float:
        """Of everybody, from those of each that are alike."""
        usual = prices[-1]
        if prices.count(usual) == len(prices):
            return usual
        found, by_bit = np.empty(self._loads.count), self._places.by_bit
        found.fill(usual)
        for (_, holders, _, _), price in zip(self._alike[:-1], prices, strict=False):
            if holders.bit_count() > FEW:
                found[self._places.of(holders)] = price
                continue
            rest = holders
            while rest:
                found[by_bit[rest & -rest]] = price
                rest &= rest - 1
        return found


def _beyond_s(terms: ScoreTerms, rows: Numbers, steps_s: Numbers) -> Numbers:
    """What waiting for room costs beyond waiting for the prefills before it."""
    context = rows[CONTEXT]
    room_s: Numbers = np.maximum(context + terms.too_much, 0.0)
    room_s /= np.maximum(context, 1.0)
    room_s *= steps_s
    room_s -= rows[WAIT_S]
    np.maximum(room_s, 0.0, out=room_s)
    room_s *= terms.wait
    return room_s

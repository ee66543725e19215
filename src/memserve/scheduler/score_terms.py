"""Scores of a form that all instances share, so that few have to be looked at, or all at once by one small product.

    wait * wait_s  +  compute_s * (decodes + crowd)  +  share * prefill_share  +  move_s  +  each * decodes
    +  (sequence * decodes + context * context_tokens + step) / (1 - prefill_share)

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
from memserve.scheduler.load_table import BESIDE, FORM, PACE, GroupLoads, Numbers
from memserve.scheduler.places import Places

_FEW = 8
"""So many instances are scored faster one after the other than all at once."""
ROUNDED = 1.0 + 1e-9
"""Times a score: more than rounding makes of it."""


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
    """The numbers of the form above; `compute_s` counts in no phase that computes nothing."""

    wait: float
    crowd: float = 0.0
    share: float = 0.0
    each: float = 0.0
    sequence: float = 0.0
    context: float = 0.0
    step: float = 0.0


HeldAlike = tuple[int, int, float, float]
"""Tokens that some instances hold of the prompt, all equally many, these instances as bits, and what it costs them: the
seconds to compute at a pace of 1, and to move."""


class FormScores:
    """One group's scores by one form, for as many instances as somebody asks for."""

    __slots__ = ("_alike", "_all", "_loads", "_places", "_terms")

    def __init__(self, terms: ScoreTerms, loads: GroupLoads, places: Places, alike: Sequence[HeldAlike]) -> None:
        """All of the group are among those `alike`, most tokens first; bits of the last ones are not looked at."""
        self._terms = terms
        self._loads = loads
        self._places = places
        self._alike = alike
        self._all: Numbers | None = None

    def few_best(self) -> tuple[float, list[int]] | None:
        """The lowest score and the places of all that have it, where a look at a few is enough to tell.

        Whoever holds as much cannot have a lower score than an idle instance of the fastest pace would have. None
        where one of the many might be best.
        """
        terms, loads = self._terms, self._loads
        crowd, step, by_bit = terms.crowd, terms.step, self._places.by_bit
        least, most, equals = inf, inf, list[int]()
        for num_tokens, holders, compute_s, move_s in self._alike:
            if compute_s * crowd * loads.least_pace + move_s + step > most:
                continue
            if not num_tokens or holders.bit_count() > _FEW:
                return None
            rest = holders
            while rest:
                place = by_bit[rest & -rest]
                rest &= rest - 1
                _, wait_s, pace, share, decodes, context = loads.one(place)
                score = (
                    terms.wait * wait_s
                    + compute_s * pace * (decodes + crowd)
                    + terms.share * share
                    + move_s
                    + terms.each * decodes
                    + (terms.sequence * decodes + terms.context * context + step) / (1.0 - share)
                )
                if score * ROUNDED < least:
                    least, most, equals = score, score * ROUNDED, [place]
                elif score <= most:
                    equals.append(place)
        return least, equals

    def all(self) -> Numbers:
        """In order."""
        if self._all is None:
            self._all = self._told()
        return self._all

    def _told(self) -> Numbers:
        terms, rows = self._terms, self._loads.rows()
        _, _, compute_s, move_s = self._alike[-1]
        # fmt: off
        matrix = np.array((  # wait_s, pace, pace * decodes, share, decodes, context, 1
            terms.wait, compute_s * terms.crowd, compute_s, terms.share, terms.each, 0.0, move_s,
            0.0, 0.0, 0.0, 0.0, terms.sequence, terms.context, terms.step,
            0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 1.0,
        ))
        # fmt: on
        scores: Numbers
        scores, steps_s, rest = matrix.reshape(3, -1).dot(rows[FORM])
        steps_s /= rest
        scores += steps_s
        for _, holders, own_s, own_move_s in self._alike[:-1]:
            where = self._places.of(holders)
            lasts = rows[PACE, where] * terms.crowd + rows[BESIDE, where]
            scores[where] += lasts * (own_s - compute_s) + (own_move_s - move_s)
        return scores

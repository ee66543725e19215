"""What a policy sees: one request and the instances that may take it or one phase of it.

Owns the shape, and what a policy is. Entry i of each array belongs to instance i.
"""

from collections.abc import Sequence
from random import Random
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from memserve.core.enums import Phase
from memserve.core.ids import InstanceId
from memserve.scheduler.cost_model import DecodeTerms
from memserve.scheduler.load import InstanceLoads
from memserve.scheduler.load_table import Numbers
from memserve.scheduler.score_terms import Question


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """The same request in predicted seconds."""

    compute_s: Numbers
    """To compute the prompt: what is held or, where that is sooner, pulled from who holds most is left out.

    0 where the instance would only decode.
    """
    whole_s: float
    """To compute all of it, on an instance of the usual speed."""
    move_s: Numbers
    """To take in what the instance lacks of the prompt when another one has computed it; 0 where it computes itself."""
    decode: DecodeTerms
    decode_pace: float
    """Seconds that steps take over those that the terms alone predict."""
    output_tokens: float
    """What it is taken to produce."""
    kv_capacity_tokens: int | None
    """Tokens whose KV an instance's device holds; None: not known."""


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """At least one instance."""

    phase: Phase
    """What the instance would do."""
    may_split: bool
    """Whether one instance may compute the prompt and another one produce the answer, or one both."""
    prompt_tokens: int
    session: str
    """What the client calls its conversation; "" for none."""
    instances: Sequence[InstanceId]
    matched: npt.NDArray[np.int64]
    """Leading prompt tokens that the instance holds."""
    used: npt.NDArray[np.int64]
    """Tokens in those blocks of its pool that are held for somebody, as its last heartbeat told."""
    loads: InstanceLoads
    costs: Costs

    @property
    def load(self) -> Numbers:
        """Tokens that it still has to compute, and those that it keeps and reads meanwhile."""
        return self.loads.tokens + self.used

    def question(self) -> Question:
        """What of it is the same for all instances."""
        costs, loads = self.costs, self.loads
        return Question(
            phase=self.phase,
            may_split=self.may_split,
            prompt_tokens=self.prompt_tokens,
            output_tokens=costs.output_tokens,
            whole_s=costs.whole_s,
            decode=costs.decode,
            decode_pace=costs.decode_pace,
            kv_capacity_tokens=costs.kv_capacity_tokens,
            mean_wait_s=float(loads.prefill_s.mean()),
            most_context=float(loads.context.max()),
        )


class Policy(Protocol):
    """Made with the scheduler's Random, which is the only one to draw from.

    A class with the attribute `in_seconds = True` gives scores that may be added up over phases and compared: with
    it, the scheduler also chooses between serving a request on one instance and splitting it between two. A class may
    also have `score_terms(question)`, which is asked first: where it answers with ScoreTerms and not None (both in
    score_terms.py), scores are told by these alone, in a fraction of the time.
    """

    def scores(self, choice: Choice) -> npt.ArrayLike:
        """One number per instance, in order; lower is better."""
        ...


class MakePolicy(Protocol):
    def __call__(self, random: Random) -> Policy: ...

"""The choice of arXiv 2406.17565, argmin of queued and own execution, in predicted seconds and for all concerned.

    whole     (1 + F) * max(wait, room) + compute * delayed + spread + answer
    prefill   (1 + F) * wait + compute * delayed + spread
    decode    wait + move + answer                          delayed = (1 + F) * crowd + decodes

What counts is the time to the last token, and F times more the time to the first one, which the prefill gives. What
a prompt's computation costs is not only its own time: whoever decodes there stands still meanwhile (`decodes`), and
once queues are long, whoever comes after waits as long, too (`crowd`). Where the KV of all that an instance was given
does not fit on its device, the request waits until enough of it is done (`room`), while prefills go on. An answer
takes its steps, the longer the more of the instance's time goes to prefills, and makes the steps of the others
longer. `spread` prefers, among instances that cost nearly the same, those that had little to do lately.
"""

from math import inf
from random import Random

import msgspec
import numpy as np
import numpy.typing as npt

from memserve.core.enums import Phase
from memserve.scheduler.choice import Choice
from memserve.scheduler.load import InstanceLoads
from memserve.scheduler.load_table import Numbers
from memserve.scheduler.score_terms import Question, ScoreTerms

_FIRST_TOKEN = 4.0
"""F where a request may be split: more makes first tokens come sooner and the last ones of mixed workloads later."""
_FIRST_TOKEN_ALONE = 20.0
"""F where it may not: the last tokens lose nothing by it (docs/simulation.md)."""
_SPREAD = 0.1
"""Of the seconds that the whole prompt takes, what a busy instance counts as slower."""


class PromptTreePolicy:
    in_seconds = True

    def __init__(self, random: Random) -> None:
        pass

    def score_terms(self, question: Question) -> ScoreTerms | None:
        """None where the KV may not fit somewhere: what it costs to wait for room is in no such form."""
        if question.kv_capacity_tokens is not None and question.most_context + _too_much(question) > 0:
            return None
        return _terms(question)

    def scores(self, choice: Choice) -> npt.ArrayLike:
        """As by `score_terms`, with `room`."""
        loads, costs, question = choice.loads, choice.costs, choice.question()
        terms, too_much = _terms(question), _too_much(question)
        scores: Numbers = terms.wait * loads.prefill_s + terms.share * loads.prefill_share
        scores += costs.compute_s * (loads.decodes + terms.crowd)
        scores += costs.move_s + terms.each * loads.decodes
        if question.phase is not Phase.PREFILL:
            scores += _steps_s(question, loads)
        if question.most_context + too_much > 0:
            share = np.maximum(loads.context + too_much, 0.0) / np.maximum(loads.context, 1.0)
            scores += terms.wait * np.maximum(share * _steps_s(question, loads) - loads.prefill_s, 0.0)
        return scores


def _terms(question: Question) -> ScoreTerms:
    decode, phase = question.decode, question.phase
    steps = question.decode_pace * question.output_tokens
    each = (decode.per_sequence_s + decode.per_context_token_s * question.prompt_tokens) * steps
    if phase is Phase.DECODE:
        wait, crowd, share = 1.0, 0.0, 0.0
    else:
        wait = 1.0 + (_FIRST_TOKEN if question.may_split else _FIRST_TOKEN_ALONE)
        crowd = wait * max(question.mean_wait_s / max(question.whole_s, 1e-9), 1.0)
        share = _SPREAD * question.whole_s
        if phase is Phase.PREFILL:
            return ScoreTerms(wait=wait, crowd=crowd, share=share)
    return ScoreTerms(
        wait=wait,
        crowd=crowd,
        share=share,
        each=each,
        sequence=decode.per_sequence_s * steps,
        context=decode.per_context_token_s * steps,
        step=decode.fixed_s * steps + each,
    )


def _steps_s(question: Question, loads: InstanceLoads) -> Numbers:
    """Of all its decode steps together with those that are there, prefills between steps included."""
    terms = _terms(msgspec.structs.replace(question, phase=Phase.DECODE))
    steps_s: Numbers = (terms.sequence * loads.decodes + terms.context * loads.context + terms.step) / (
        1.0 - loads.prefill_share
    )
    return steps_s


def _too_much(question: Question) -> float:
    """Tokens of KV beyond what fits, beside those of the answers in progress: in the time of an answer, about all go.

    Only asked for where a request cannot be split: elsewhere it made requests be split that had better not be.
    """
    if question.phase is Phase.DECODE or question.may_split or question.kv_capacity_tokens is None:
        return -inf
    return question.prompt_tokens + question.output_tokens - question.kv_capacity_tokens

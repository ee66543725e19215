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

import numpy as np
import numpy.typing as npt

from memserve.core.enums import Phase
from memserve.scheduler.choice import Choice
from memserve.scheduler.load_table import Numbers
from memserve.scheduler.score_terms import Question, ScoreTerms

_FIRST_TOKEN = 4.0
"""F where a request may be split: more makes first tokens come sooner and the last ones of mixed workloads later."""
_FIRST_TOKEN_ALONE = 20.0
"""F where it may not: the last tokens lose nothing by it (docs/simulation.md)."""
_JOINING_STEPS = 2.0
"""Of an instance that takes an answer over from another one: a step ends before it begins to load, another one computes
the last token of the prompt once more. 1.5 to 2.7 were seen on vLLM (docs/evaluation.md, `basic` and `return`)."""
_SPREAD = 0.1
"""Of the seconds that the whole prompt takes, what a busy instance counts as slower."""


class PromptTreePolicy:
    in_seconds = True

    def __init__(self, random: Random) -> None:
        pass

    def score_terms(self, question: Question) -> ScoreTerms:
        return _terms(question)

    def scores(self, choice: Choice) -> npt.ArrayLike:
        loads, costs, terms = choice.loads, choice.costs, _terms(choice.question())
        context = loads.context
        steps_s = (terms.sequence * loads.decodes + terms.context * context + terms.step) / (1.0 - loads.prefill_share)
        room_s = np.maximum(context + terms.too_much, 0.0) / np.maximum(context, 1.0) * steps_s
        scores: Numbers = terms.wait * np.maximum(loads.prefill_s, room_s) + terms.share * loads.prefill_share
        scores += costs.compute_s * (loads.decodes + terms.crowd)
        scores += costs.move_s + terms.each * loads.decodes + terms.answer * steps_s
        return scores


def _terms(question: Question) -> ScoreTerms:
    decode, phase = question.decode, question.phase
    joining = _JOINING_STEPS if phase is Phase.DECODE else 0.0
    steps = question.decode_pace * (question.output_tokens + joining)
    added = (decode.per_sequence_s + decode.per_context_token_s * question.prompt_tokens) * steps
    wait, crowd, share = 1.0, 0.0, 0.0
    if phase is not Phase.DECODE:
        wait = 1.0 + (_FIRST_TOKEN if question.may_split else _FIRST_TOKEN_ALONE)
        crowd = wait * max(question.mean_wait_s / max(question.whole_s, 1e-9), 1.0)
        share = _SPREAD * question.whole_s
    answers = phase is not Phase.PREFILL
    return ScoreTerms(
        wait=wait,
        crowd=crowd,
        share=share,
        each=added if answers else 0.0,
        sequence=decode.per_sequence_s * steps,
        context=decode.per_context_token_s * steps,
        step=decode.fixed_s * steps + added,
        answer=1.0 if answers else 0.0,
        too_much=-inf if question.kv_capacity_tokens is None else _too_much(question),
    )


def _too_much(question: Question) -> float:
    """Tokens of KV beyond what fits, with those of the answers in progress: in the time of an answer, about all go.

    Only asked for where a request cannot be split: elsewhere it made requests be split that had better not be.
    """
    if question.phase is Phase.DECODE or question.may_split or question.kv_capacity_tokens is None:
        return -inf
    too_much = question.prompt_tokens + question.output_tokens - question.kv_capacity_tokens
    return too_much if question.most_context + too_much > 0 else -inf

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

from random import Random

import numpy as np
import numpy.typing as npt

from memserve.core.enums import Phase
from memserve.scheduler.choice import Choice
from memserve.scheduler.load import Numbers

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

    def scores(self, choice: Choice) -> npt.ArrayLike:
        loads, costs = choice.loads, choice.costs
        if choice.phase is Phase.DECODE:
            return loads.prefill_s + costs.move_s + _answer_s(choice)
        first_token = _FIRST_TOKEN if choice.may_split else _FIRST_TOKEN_ALONE
        crowd = float(np.add.reduce(loads.prefill_s)) / len(loads.prefill_s) / max(costs.whole_s, 1e-9)
        wait_s = loads.prefill_s if choice.may_split else _wait_s(choice)
        scores: Numbers = wait_s * (1.0 + first_token)
        scores += costs.compute_s * (loads.decodes + (1.0 + first_token) * max(crowd, 1.0))
        scores += loads.prefill_share * (_SPREAD * costs.whole_s)
        if choice.phase is Phase.WHOLE:
            scores += _answer_s(choice)
        return scores


def _added_s(choice: Choice) -> float:
    """What the request adds to every step that it takes part in."""
    terms = choice.costs.decode
    return terms.per_sequence_s + terms.per_context_token_s * choice.prompt_tokens


def _steps_s(choice: Choice) -> Numbers:
    """Of all its decode steps together with those that are there, prefills between steps included."""
    loads, terms = choice.loads, choice.costs.decode
    steps = choice.costs.decode_pace * choice.costs.output_tokens
    steps_s: Numbers = loads.decodes * (terms.per_sequence_s * steps)
    steps_s += loads.context * (terms.per_context_token_s * steps)
    steps_s += (terms.fixed_s + _added_s(choice)) * steps
    steps_s /= 1.0 - loads.prefill_share
    return steps_s


def _answer_s(choice: Choice) -> Numbers:
    """Of its own steps and of what it adds to those of the others."""
    costs = choice.costs
    answer_s = _steps_s(choice)
    answer_s += choice.loads.decodes * (_added_s(choice) * costs.decode_pace * costs.output_tokens)
    return answer_s


def _wait_s(choice: Choice) -> Numbers:
    """For the prefills before it and until its KV fits: in the time of an answer, about all KV that is kept goes.

    Only asked for where a request cannot be split: elsewhere it made requests be split that had better not be.
    """
    loads, costs = choice.loads, choice.costs
    if costs.kv_capacity_tokens is None:
        return loads.prefill_s
    too_much = choice.prompt_tokens + costs.output_tokens - costs.kv_capacity_tokens
    if np.maximum.reduce(loads.context) + too_much <= 0:
        return loads.prefill_s
    share = np.maximum(loads.context + too_much, 0.0) / np.maximum(loads.context, 1.0)
    wait_s: Numbers = np.maximum(loads.prefill_s, share * _steps_s(choice))
    return wait_s

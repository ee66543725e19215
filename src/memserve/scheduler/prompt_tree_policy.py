"""The choice of arXiv 2406.17565, argmin of queued and own execution, in predicted seconds and for all concerned.

    whole     (1 + F) * wait + compute * delayed + spread + answer
    prefill   (1 + F) * wait + compute * delayed + spread
    decode    wait + move + answer                          delayed = (1 + F) * crowd + decodes

What counts is the time to the last token, and F times more the time to the first one, which the prefill gives. What
a prompt's computation costs is not only its own time: whoever decodes there stands still meanwhile (`decodes`), and
once queues are long, whoever comes after waits as long, too (`crowd`). An answer takes its steps, the longer the
more of the instance's time goes to prefills, and makes the steps of the others longer. `spread` prefers, among
instances that cost nearly the same, those that had little to do lately.
"""

from random import Random

import numpy.typing as npt

from memserve.core.enums import Phase
from memserve.scheduler.choice import Choice
from memserve.scheduler.load import Numbers

_FIRST_TOKEN = 4.0
"""F where a request may be split: more makes first tokens come sooner and the last ones of mixed workloads later."""
_FIRST_TOKEN_ALONE = 10.0
"""F where it may not: the last tokens lose nothing by it (docs/simulation.md)."""
_SPREAD = 0.1
"""Of the seconds that the whole prompt takes, what a busy instance counts as slower."""


class PromptTreePolicy:
    in_seconds = True

    def __init__(self, random: Random) -> None:
        pass

    def scores(self, choice: Choice) -> npt.ArrayLike:
        loads, costs = choice.loads, choice.costs
        first_token = _FIRST_TOKEN if choice.may_split else _FIRST_TOKEN_ALONE
        if choice.phase is Phase.DECODE:
            return loads.prefill_s + costs.move_s + _answer_s(choice)
        crowd = float(loads.prefill_s.sum()) / len(loads.prefill_s) / max(costs.whole_s, 1e-9)
        delayed = loads.decodes + (1.0 + first_token) * max(crowd, 1.0)
        compute_s: Numbers = loads.prefill_s * (1.0 + first_token) + costs.compute_s * delayed
        compute_s += loads.prefill_share * (_SPREAD * costs.whole_s)
        return compute_s if choice.phase is Phase.PREFILL else compute_s + _answer_s(choice)


def _answer_s(choice: Choice) -> Numbers:
    """Of its own steps and of what it adds to those of the others."""
    loads, costs, terms = choice.loads, choice.costs, choice.costs.decode
    per_context_s = terms.per_context_token_s
    added_s = terms.per_sequence_s + per_context_s * choice.prompt_tokens
    others_s = loads.decodes * terms.per_sequence_s + loads.context * per_context_s
    step_s = others_s + (terms.fixed_s + added_s)
    each_s: Numbers = step_s / (1.0 - loads.prefill_share) + loads.decodes * added_s
    return each_s * (costs.output_tokens * costs.decode_pace)

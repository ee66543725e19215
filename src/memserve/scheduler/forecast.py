"""What a decision is expected to cost until the first token, step after step, so that it can be held against it.

Pure: the seconds come from what the Predictions have been given and have learnt.
"""

from memserve.scheduler.decision import Candidate, Forecast, PullWeighing
from memserve.scheduler.predictions import Predictions


def forecast(
    *,
    first: Candidate,
    decode: Candidate | None,
    pull: PullWeighing | None,
    prompt_tokens: int,
    prefill_s: float,
    bytes_per_token: float,
    predictions: Predictions,
) -> Forecast:
    """`first` computes the prompt, `decode` takes it over if anyone else does; a `pull` not worth it is not made.

    `prefill_s` is what `first` computes when it has pulled what is worth it, by the terms alone.
    """
    if not prompt_tokens:
        return Forecast(queue_s=0.0, pull_s=0.0, prefill_s=0.0, handover_s=0.0)
    handover_s = 0.0
    if decode is not None:
        num_bytes = (prompt_tokens - decode.matched_tokens) * bytes_per_token
        handover_s = predictions.transfer_s(first.instance, decode.instance, num_bytes)
    return Forecast(
        queue_s=first.wait_s,
        pull_s=pull.queue_s + pull.transfer_s if pull is not None and pull.is_worth_it else 0.0,
        prefill_s=prefill_s * predictions.computing.of(first.instance),
        handover_s=handover_s,
    )

"""What a decision is expected to cost until the first token, step after step, so that it can be held against it.

Pure: the seconds come from what the PullPolicy has been given and has learnt.
"""

from memserve.core.ids import InstanceId
from memserve.scheduler.decision import Candidate, Forecast, PullWeighing
from memserve.scheduler.pull_policy import PullPolicy


def forecast(
    *,
    first: Candidate,
    decode: Candidate | None,
    pull: PullWeighing | None,
    prompt_tokens: int,
    bytes_per_token: float,
    costs: PullPolicy,
) -> Forecast:
    """`first` computes the prompt, `decode` takes it over if anyone else does; a `pull` not worth it is not made."""
    if not prompt_tokens:
        return Forecast(queue_s=0.0, pull_s=0.0, prefill_s=0.0, handover_s=0.0)
    pulled = pull if pull is not None and pull.is_worth_it else None
    held = first.matched_tokens + (pulled.gained_tokens if pulled else 0)
    return Forecast(
        queue_s=first.wait_s,
        pull_s=pulled.queue_s + pulled.transfer_s if pulled else 0.0,
        prefill_s=costs.predictions.prefill_s(first.instance, prompt_tokens, held),
        handover_s=_handover_s(first.instance, decode, prompt_tokens, bytes_per_token, costs),
    )


def _handover_s(
    source: InstanceId, decode: Candidate | None, prompt_tokens: int, bytes_per_token: float, costs: PullPolicy
) -> float:
    if decode is None:
        return 0.0
    lacking = prompt_tokens - decode.matched_tokens
    return costs.predictions.transfer_s(source, decode.instance, lacking * bytes_per_token)

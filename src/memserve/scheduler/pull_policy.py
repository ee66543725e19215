"""Transfer or recompute: whether an instance pulls a prefix from one that holds more of it, before it computes.

    pull   iff   seconds to compute what it lacks and the other holds   >   queue + latency + bytes / bandwidth

The queue is what is still under way between the two ends (path_queues.py). Owns the Predictions, made from the terms it
is given. Does no I/O and takes no time itself.
"""

from memserve.core.ids import InstanceId
from memserve.scheduler.cost_model import DecodeTerms, PathTerms, PrefillTerms
from memserve.scheduler.decision import PullWeighing
from memserve.scheduler.predictions import ASSUMED_DECODE, ASSUMED_PATH, ASSUMED_PREFILL, Predictions


class PullPolicy:
    """Weighs pulls, by predictions that follow what happens."""

    def __init__(
        self,
        *,
        prefill: PrefillTerms = ASSUMED_PREFILL,
        decode: DecodeTerms = ASSUMED_DECODE,
        path: PathTerms = ASSUMED_PATH,
        kv_capacity_tokens: int | None = None,
    ) -> None:
        """`kv_capacity_tokens` is what fits on an instance's device, for policies; None: not known."""
        self.predictions = Predictions(prefill=prefill, decode=decode, path=path, kv_capacity_tokens=kv_capacity_tokens)

    def weigh(
        self,
        *,
        target: InstanceId,
        source: InstanceId,
        prompt_tokens: int,
        held_tokens: int,
        source_tokens: int,
        bytes_per_token: float,
        queue_s: float = 0.0,
    ) -> PullWeighing:
        """What `target`, which holds `held_tokens`, would pay and save if it had `source_tokens` from `source`."""
        gained = source_tokens - held_tokens
        without = self.predictions.prefill_s(target, prompt_tokens, held_tokens)
        num_bytes = round(gained * bytes_per_token)
        return PullWeighing(
            source=source,
            gained_tokens=gained,
            num_bytes=num_bytes,
            queue_s=queue_s,
            transfer_s=self.predictions.transfer_s(source, target, num_bytes),
            recompute_s=without - self.predictions.prefill_s(target, prompt_tokens, source_tokens),
        )

    def declined(self, weighing: PullWeighing, target: InstanceId) -> None:
        """It was not worth it: what made transfers look slow fades, as nothing new is learnt of them."""
        self.predictions.transferring.fade((weighing.source, target))

    def __repr__(self) -> str:
        return f"PullPolicy({self.predictions})"

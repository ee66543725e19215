"""Predicted seconds of prefills, decode steps and transfers, corrected by what really happened.

Owns the terms and the room for KV that it was given (those of a CostProfile where there is one) and a factor per
instance that computes, per instance that decodes and per pair that transfers. Does no I/O and takes no time itself.
"""

from memserve.core.enums import TransferMode
from memserve.core.ids import InstanceId
from memserve.scheduler.cost_model import DecodeTerms, PathTerms, PrefillTerms
from memserve.scheduler.factors import Factors
from memserve.wire.messages import MovedBlocks, RequestReport

ASSUMED_PREFILL = PrefillTerms(fixed_s=0.0, per_token_s=1 / 5_000, per_pair_s=0.0)
"""5,000 tokens/s: assumed until something was measured."""
ASSUMED_DECODE = DecodeTerms(fixed_s=0.03, per_sequence_s=0.001, per_context_token_s=1e-6)
"""30 ms a step, 1 ms for every further sequence, 1 ms for 1,000 tokens of context: as above."""
ASSUMED_PATH = PathTerms(latency_s=0.002, bytes_per_s=4e9)
"""2 ms and 4 GB/s until something was pulled: the faster end of what was seen. The first pull corrects what is too
fast; what is too slow would never be tried."""

_LEAST_PREFILL_TOKENS = 256
"""Of a shorter prefill most of the time is not spent computing."""
_LEAST_STEPS = 8
"""Of a shorter answer much of the time is something else."""


class Predictions:
    def __init__(
        self,
        *,
        prefill: PrefillTerms = ASSUMED_PREFILL,
        decode: DecodeTerms = ASSUMED_DECODE,
        path: PathTerms = ASSUMED_PATH,
        kv_capacity_tokens: int | None = None,
    ) -> None:
        self.prefill = prefill
        self.decode = decode
        self.path = path
        self.kv_capacity_tokens = kv_capacity_tokens
        self.computing = Factors(prior=0 if prefill is ASSUMED_PREFILL else 1)
        self.decoding = Factors(prior=0 if decode is ASSUMED_DECODE else 1)
        self.transferring = Factors(prior=0 if path is ASSUMED_PATH else 1)

    def prefill_s(self, instance: InstanceId, prompt_tokens: int, held_tokens: int) -> float:
        """exec(x, y) on this instance."""
        return self.prefill.seconds(prompt_tokens, held_tokens / max(prompt_tokens, 1)) * self.computing.of(instance)

    def transfer_s(self, source: InstanceId, target: InstanceId, num_bytes: float) -> float:
        """On an idle path."""
        return self.path.seconds(num_bytes) * self.transferring.of((source, target))

    def usual_transfer_s(self, num_bytes: float) -> float:
        """On an idle path between any two."""
        return self.path.seconds(num_bytes) * self.transferring.usual

    def prefilled(self, instance: InstanceId, *, prompt_tokens: int, held_tokens: int, seconds: float) -> None:
        """With nothing else to do, the instance has computed what it did not hold of a prompt."""
        if prompt_tokens - held_tokens >= _LEAST_PREFILL_TOKENS and seconds > 0:
            predicted = self.prefill.seconds(prompt_tokens, held_tokens / prompt_tokens)
            self.computing.learn(instance, seconds / predicted)

    def may_overrun(self, *, prompt_tokens: int, held_tokens: int) -> bool:
        """Whether it would tell something if this took longer than predicted: see `computing_still`."""
        return prompt_tokens - held_tokens >= _LEAST_PREFILL_TOKENS and self.computing.is_guess

    def computing_still(self, *, prompt_tokens: int, held_tokens: int, seconds: float) -> None:
        """An instance with nothing else to do has not computed it yet: until one has, this is all that is known."""
        if prompt_tokens - held_tokens >= _LEAST_PREFILL_TOKENS:
            self.computing.at_least(seconds / self.prefill.seconds(prompt_tokens, held_tokens / prompt_tokens))

    def answered(self, report: RequestReport, *, batch: float, context_tokens: float) -> None:
        """An answer was produced among so many others; what its prompt took is predicted and left out."""
        steps = report.output_tokens - 1
        prefill_s = self.prefill_s(report.instance, report.prompt_tokens, report.prompt_tokens - report.computed_tokens)
        seconds = report.run_s - prefill_s
        if steps >= _LEAST_STEPS and seconds > 0:
            predicted = self.decode.seconds(max(round(batch), 1), context_tokens) * steps
            self.decoding.learn(report.instance, seconds / predicted)

    def moved(self, moved: MovedBlocks) -> None:
        """Blocks went over in one piece; those sent layer by layer took the time of the computation."""
        if moved.mode is TransferMode.BY_REQUEST and moved.num_bytes > 0 and moved.seconds > 0:
            predicted = self.path.seconds(moved.num_bytes)
            self.transferring.learn((moved.source, moved.target), moved.seconds / predicted)

    def __repr__(self) -> str:
        return f"Predictions(computing {self.computing}, decoding {self.decoding}, transferring {self.transferring})"

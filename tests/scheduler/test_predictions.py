"""What the scheduler predicts follows what really happened."""

import msgspec
import pytest

from memserve.core.enums import Phase
from memserve.core.ids import InstanceId, RequestId
from memserve.scheduler.cost_model import DecodeTerms, PrefillTerms
from memserve.scheduler.predictions import Predictions
from memserve.wire.messages import RequestReport

A = InstanceId("a")


def new_predictions() -> Predictions:
    return Predictions(
        prefill=PrefillTerms(fixed_s=0.0, per_token_s=0.001, per_pair_s=0.0),
        decode=DecodeTerms(fixed_s=0.01, per_sequence_s=0.0, per_context_token_s=0.0),
    )


def report(*, run_s: float, output_tokens: int) -> RequestReport:
    return RequestReport(
        request=RequestId("r"), instance=A, phase=Phase.WHOLE, prompt_tokens=1000, hbm_tokens=0, dram_tokens=0,
        received_tokens=0, computed_tokens=1000, output_tokens=output_tokens, run_s=run_s,
    )  # fmt: skip


def test_steps_that_take_longer_than_predicted_are_learnt_without_the_time_of_the_prompt() -> None:
    predictions = new_predictions()
    for _ in range(30):
        predictions.answered(report(run_s=1.0 + 100 * 0.03, output_tokens=101), batch=4.0, context_tokens=0.0)
    assert predictions.decoding.of(A) == pytest.approx(3.0, rel=0.05)


@pytest.mark.parametrize("told", [report(run_s=9.0, output_tokens=4), report(run_s=0.5, output_tokens=100)])
def test_short_answers_and_times_that_cannot_be_teach_nothing(told: RequestReport) -> None:
    predictions = new_predictions()
    predictions.answered(told, batch=1.0, context_tokens=0.0)
    predictions.answered(msgspec.structs.replace(told, run_s=0.0), batch=1.0, context_tokens=0.0)
    assert predictions.decoding.of(A) == 1.0

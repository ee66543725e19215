"""What a decision is expected to cost, from the same terms that weigh a pull."""

import pytest

from memserve.core.enums import Role
from memserve.core.ids import InstanceId
from memserve.scheduler.cost_model import PathTerms, PrefillTerms
from memserve.scheduler.decision import Candidate, PullWeighing
from memserve.scheduler.forecast import forecast
from memserve.scheduler.predictions import Predictions

A, B = InstanceId("a"), InstanceId("b")
COSTS = Predictions(
    prefill=PrefillTerms(fixed_s=0.0, per_token_s=0.001, per_pair_s=0.0),
    path=PathTerms(latency_s=0.5, bytes_per_s=1000.0),
)


def candidate(instance: InstanceId, *, matched: int, queued: int = 0) -> Candidate:
    return Candidate(
        instance=instance,
        role=Role.PREFILL,
        matched_tokens=matched,
        queued_tokens=queued,
        wait_s=queued * 0.001,
        score=0.0,
    )


def weighing(*, transfer_s: float) -> PullWeighing:
    return PullWeighing(source=B, gained_tokens=200, num_bytes=400, transfer_s=transfer_s, recompute_s=0.2)


@pytest.mark.parametrize(("transfer_s", "pull_s"), [(0.1, 0.1), (0.3, 0.0)])
def test_a_pull_costs_its_transfer_when_it_is_made(transfer_s: float, pull_s: float) -> None:
    found = forecast(
        first=candidate(A, matched=100, queued=50),
        decode=None,
        pull=weighing(transfer_s=transfer_s),
        prompt_tokens=1000,
        bytes_per_token=2.0,
        prefill_s=0.7,
        predictions=COSTS,
    )
    assert (found.queue_s, found.pull_s, found.handover_s) == (pytest.approx(0.05), pull_s, 0.0)
    assert found.prefill_s == pytest.approx(0.7)


def test_a_hand_over_moves_what_the_decode_instance_lacks() -> None:
    found = forecast(
        first=candidate(A, matched=0),
        decode=candidate(B, matched=750),
        pull=None,
        prompt_tokens=1000,
        bytes_per_token=2.0,
        prefill_s=1.0,
        predictions=COSTS,
    )
    assert found.handover_s == pytest.approx(0.5 + 250 * 2 / 1000)
    assert found.first_token_s == pytest.approx(1.0 + 1.0)


def test_an_empty_prompt_costs_nothing() -> None:
    found = forecast(
        first=candidate(A, matched=0),
        decode=None,
        pull=None,
        prompt_tokens=0,
        bytes_per_token=2.0,
        prefill_s=0.0,
        predictions=COSTS,
    )
    assert found.first_token_s == 0.0

"""A record in words: who was chosen and why, what was predicted, what came of it."""

import msgspec
import pytest

from memserve.core.enums import Phase, Role, Tier
from memserve.core.ids import Epoch, InstanceId, RequestId
from memserve.gateway.explanation import explain
from memserve.gateway.records import RequestRecord, RequestState
from memserve.scheduler.decision import Candidate, Decision, Forecast, PullWeighing
from memserve.wire.messages import MovedBlocks, RequestReport
from tests.gateway.rig import Rigs, chat

P, Q, D = InstanceId("prefill-0"), InstanceId("prefill-1"), InstanceId("decode-0")


def candidate(instance: InstanceId, role: Role, *, matched: int = 0, queued: int = 0) -> Candidate:
    phase = Phase.DECODE if role is Role.DECODE else Phase.PREFILL
    return Candidate(
        instance=instance, role=role, phase=phase, matched_tokens=matched, queued_tokens=queued, score=float(queued)
    )


def decision(*, pull: PullWeighing | None = None) -> Decision:
    return Decision(
        request=RequestId("r"),
        epoch=Epoch(1),
        policy="prompt-tree",
        prefill=P,
        decode=D,
        candidates=(
            candidate(P, Role.PREFILL, matched=640),
            candidate(Q, Role.PREFILL, queued=900),
            candidate(D, Role.DECODE, matched=512),
        ),
        source=D if pull is not None and pull.is_worth_it else None,
        pull=pull,
        forecast=Forecast(queue_s=0.0, pull_s=0.25, prefill_s=1.0, handover_s=0.125),
    )


def pulling(transfer_s: float) -> PullWeighing:
    return PullWeighing(source=D, gained_tokens=300, num_bytes=13_500_000, transfer_s=transfer_s, recompute_s=1.5)


def report() -> RequestReport:
    moved = [(P, D, 0.1), (D, P, 0.3)]
    return RequestReport(
        request=RequestId("r"), instance=P, phase=Phase.PREFILL, prompt_tokens=1000, hbm_tokens=580, dram_tokens=340,
        disk_tokens=20, received_tokens=0, computed_tokens=60, output_tokens=1, pulled_tokens=300,
        queue_s=0.5, run_s=0.9,
        moved=tuple(
            MovedBlocks(
                source=source, target=target, path="shm", num_blocks=10, num_tokens=300, num_bytes=13_500_000,
                num_calls=1, seconds=seconds,
            )
            for source, target, seconds in moved
        ),
    )  # fmt: skip


def record(decided: Decision) -> RequestRecord:
    return RequestRecord(
        request=RequestId("r"), route="/v1/completions", started=0.0, state=RequestState.SERVED, status=200, model="m",
        prompt_tokens=1000, ttft_s=1.75, seconds=3.5, decided_s=0.25, decisions=(decided,), reports=(report(),),
    )  # fmt: skip


def test_tiers_are_told_when_they_are_not_what_everyone_expects() -> None:
    plain = decision()
    assert not any("in DRAM" in line for line in explain(record(plain)).text)
    mixed = msgspec.structs.replace(plain, tiers={Tier.DISK: 128, Tier.DRAM: 512})
    assert "prefill-0 has 512 in DRAM and 128 in DISK of the prompt's tokens." in explain(record(mixed)).text


def test_it_names_who_was_chosen_what_it_held_and_whom_it_was_weighed_against() -> None:
    text = "\n".join(explain(record(decision())).text)
    assert "prefill-0 computes the prompt, by prompt-tree: holds 640 tokens, has 0 queued" in text
    assert "Weighed against prefill-1 (holds 0 tokens, has 900 queued, score 900)" in text
    assert "decode-0 decodes, by prompt-tree: holds 512 tokens" in text
    assert "580 in the engine, 40 in its pool, 20 on its disk, 300 pulled, 60 computed" in text


@pytest.mark.parametrize(("transfer_s", "verdict"), [(0.25, "so pulled"), (2.0, "so computed instead")])
def test_it_gives_both_sides_of_transfer_or_recompute(transfer_s: float, verdict: str) -> None:
    text = "\n".join(explain(record(decision(pull=pulling(transfer_s)))).text)
    assert "decode-0 holds 300 tokens more than prefill-0 (13.5 MB)" in text
    assert "against 1.50 s to compute" in text
    assert verdict in text


def test_each_step_is_predicted_and_actual() -> None:
    steps = {s.what: (s.predicted_s, s.actual_s) for s in explain(record(decision(pull=pulling(0.25)))).steps}
    assert steps["queue"] == (0.0, pytest.approx(0.2))
    assert steps["pull"] == (0.25, 0.3)
    assert steps["prefill"] == (1.0, 0.9)
    assert steps["hand-over"] == (0.125, 0.1)
    assert steps["first token"] == (1.375, 1.5)


def test_of_a_request_that_was_never_decided_it_says_what_ended_it() -> None:
    bare = RequestRecord(request=RequestId("r"), route="/v1/completions", started=0.0, error="no instance can take it")
    found = explain(bare)
    assert found.text[-1] == "It ended with: no instance can take it"
    assert found.steps == ()


async def test_the_gateway_explains_each_request_that_it_remembers_and_no_other(rig: Rigs) -> None:
    async with rig() as cluster:
        await cluster.post(chat(), **{"x-request-id": "a/b"})
        _, found = await cluster.get("/admin/explain/a/b")
        assert found["text"][0].startswith("/v1/chat/completions for tiny: ")
        assert [step["what"] for step in found["steps"]] == ["queue", "pull", "prefill", "hand-over", "first token"]
        assert all(step["predicted_s"] is not None for step in found["steps"])
        assert (await cluster.get("/admin/explain/none"))[0] == 404


async def test_predictions_are_judged_in_the_metrics(rig: Rigs) -> None:
    async with rig() as cluster:
        await cluster.stream(chat())
        line = 'memserve_scheduler_actual_over_predicted_count{step="first token"}'
        assert await cluster.metric(line) == 1


def test_an_early_first_token_is_not_predicted_to_wait_for_the_hand_over() -> None:
    late = explain(record(decision()))
    early = explain(msgspec.structs.replace(record(decision()), began_early=True, resumed_at=(7,)))
    (expected,), (sooner,) = ([s for s in told.steps if s.what == "first token"] for told in (late, early))
    assert expected.predicted_s is not None
    assert sooner.predicted_s == expected.predicted_s - 0.125
    assert "The prefill instance's token was the first; it did not wait for the hand-over." in early.text
    assert "An instance was lost in the middle of the answer; another one went on after 7 tokens." in early.text

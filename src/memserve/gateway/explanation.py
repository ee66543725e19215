"""Why a request went where it went, and whether what was predicted came true: one record, in words and numbers.

Owns the sentences. Pure: reads a RequestRecord, asks nobody.
"""

from collections.abc import Iterator, Mapping

import msgspec

from memserve.core.enums import Phase, Tier
from memserve.core.ids import InstanceId
from memserve.gateway.records import RequestRecord
from memserve.scheduler.decision import Candidate, Decision, PullWeighing
from memserve.wire.messages import RequestReport


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step on the way to the first token, in seconds; None where it is not known."""

    what: str
    predicted_s: float | None
    actual_s: float | None


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    request: str
    text: tuple[str, ...]
    """Sentences, in the order in which things happened."""
    steps: tuple[Step, ...]


def explain(record: RequestRecord) -> Explanation:
    """Of a request that runs, was served or failed; what is not known yet is left out."""
    return Explanation(
        request=record.request,
        text=(*_outcome(record), *_decisions(record), *_facts(record)),
        steps=steps_of(record),
    )


def _outcome(record: RequestRecord) -> Iterator[str]:
    prompt = "a prompt that was not tokenised"
    if record.prompt_tokens is not None:
        prompt = f"{record.prompt_tokens} prompt tokens"
    model = f" for {record.model}" if record.model else ""
    yield f"{record.route or 'A request of another gateway'}{model}: {prompt}, {record.state}."
    if record.seconds is not None:
        first = "" if record.ttft_s is None else f", its first token after {seconds(record.ttft_s)}"
        yield f"It took {seconds(record.seconds)}{first}."
    if record.began_early:
        yield "The prefill instance's token was the first; it did not wait for the hand-over."
    for num_tokens in record.resumed_at:
        yield f"An instance was lost in the middle of the answer; another one went on after {num_tokens} tokens."
    if record.error:
        yield f"It ended with: {record.error}"


def _decisions(record: RequestRecord) -> Iterator[str]:
    for number, decision in enumerate(record.decisions, start=1):
        if len(record.decisions) > 1:
            yield f"Decision {number} of {len(record.decisions)}; each but the last one failed:"
        yield from _decision(decision)


def _decision(decision: Decision) -> Iterator[str]:
    computes = decision.prefill or decision.decode
    for chosen, task in ((computes, "computes the prompt"), (decision.decode, "decodes")):
        is_decode_half = task == "decodes"
        group = [c for c in decision.candidates if (c.phase is Phase.DECODE) == is_decode_half]
        if task == "decodes" and decision.prefill is None:
            yield f"{chosen} decodes, too: nothing is handed over."
            continue
        yield from _choice(decision.policy, chosen, task, group)
    if set(decision.tiers) - {Tier.DRAM}:
        yield f"{computes} has {_listed(decision.tiers)} of the prompt's tokens."
    if decision.pull is not None:
        yield _pull(decision.pull, computes)


def _listed(tiers: Mapping[Tier, int]) -> str:
    return " and ".join(f"{tokens} in {tier.name}" for tier, tokens in sorted(tiers.items()))


def _choice(policy: str, chosen: InstanceId, task: str, group: list[Candidate]) -> Iterator[str]:
    own = next((c for c in group if c.instance == chosen), None)
    if own is None:
        yield f"{chosen} {task}, by {policy}."
        return
    yield f"{chosen} {task}, by {policy}: {_weight(own)}."
    others = [f"{c.instance} ({_weight(c)})" for c in group if c.instance != chosen]
    if others:
        yield f"Weighed against {', '.join(others)}; the lowest score wins; of several as good, one is drawn."


def _weight(candidate: Candidate) -> str:
    return f"holds {candidate.matched_tokens} tokens, has {candidate.queued_tokens} queued, score {candidate.score:.4g}"


def _pull(pull: PullWeighing, computes: InstanceId) -> str:
    verdict = "pulled" if pull.is_worth_it else "computed instead"
    send_s = pull.queue_s + pull.transfer_s
    return (
        f"{pull.source} holds {pull.gained_tokens} tokens more than {computes} ({pull.num_bytes / 1e6:.1f} MB): "
        f"{seconds(send_s)} to send against {seconds(pull.recompute_s)} to compute, so {verdict}."
    )


def _facts(record: RequestRecord) -> Iterator[str]:
    for report in record.reports:
        found = {
            "in the engine": report.hbm_tokens,
            "in its pool": report.dram_tokens - report.pulled_tokens,
            "on its disk": report.disk_tokens,
            "pulled": report.pulled_tokens,
            "handed over": report.received_tokens,
            "computed": report.computed_tokens,
        }
        listed = ", ".join(f"{count} {where}" for where, count in found.items() if count)
        yield f"{report.instance} ({report.phase}) had {report.prompt_tokens} prompt tokens: {listed or 'none'}."
        for moved in report.moved:
            calls = "1 call" if moved.num_calls == 1 else f"{moved.num_calls} calls"
            yield (
                f"{moved.num_tokens} tokens ({moved.num_bytes / 1e6:.1f} MB) went from {moved.source} to "
                f"{moved.target} over {moved.path} in {seconds(moved.seconds)}, {calls}."
            )


def steps_of(record: RequestRecord) -> tuple[Step, ...]:
    """Of the last decision; none before there is one."""
    if not record.decisions:
        return ()
    decision = record.decisions[-1]
    computes = decision.prefill or decision.decode
    report = next((r for r in record.reports if r.instance == computes and r.phase is not Phase.DECODE), None)
    expected = decision.forecast
    actual = _actual(record, decision, report)
    if expected is None:
        return tuple(Step(what=what, predicted_s=None, actual_s=value) for what, value in actual.items())
    predicted = {
        "queue": expected.queue_s,
        "pull": expected.pull_s,
        "prefill": expected.prefill_s,
        "hand-over": expected.handover_s,
        "first token": expected.first_token_s - (expected.handover_s if record.began_early else 0.0),
    }
    return tuple(Step(what=what, predicted_s=predicted[what], actual_s=value) for what, value in actual.items())


def _actual(record: RequestRecord, decision: Decision, report: RequestReport | None) -> dict[str, float | None]:
    pull_s = _moved_s(record, decision.source, decision.prefill or decision.decode)
    queue_s = None if report is None else max(0.0, report.queue_s - (pull_s or 0.0))
    first_s = None
    if record.ttft_s is not None and record.decided_s is not None:
        first_s = record.ttft_s - record.decided_s
    prefill_s = None if report is None else report.run_s
    if report is not None and report.phase is Phase.WHOLE:
        # Its run goes on to the last token; until the first one it is what is left of the way there.
        prefill_s = None if first_s is None else max(0.0, first_s - report.queue_s)
    return {
        "queue": queue_s,
        "pull": pull_s if decision.source is not None else 0.0,
        "prefill": prefill_s,
        "hand-over": _moved_s(record, decision.prefill, decision.decode) if decision.prefill is not None else 0.0,
        "first token": first_s,
    }


def _moved_s(record: RequestRecord, source: InstanceId | None, target: InstanceId) -> float | None:
    times = [m.seconds for r in record.reports for m in r.moved if (m.source, m.target) == (source, target)]
    return sum(times) if times else None


def seconds(value: float) -> str:
    """With the unit that reads best."""
    if value < 1e-3:
        return f"{value * 1e6:.0f} us"
    return f"{value * 1e3:.1f} ms" if value < 1 else f"{value:.2f} s"

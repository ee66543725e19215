"""Decisions of the global scheduler, seen through decide, prefilled, finish and forget."""

from random import Random

import numpy as np
import pytest
from clusters import colocated, disaggregated, instance, view

from memserve.cluster.view import ClusterView, InstanceState
from memserve.core.clock import ManualClock
from memserve.core.enums import CachingMode, Phase, Role
from memserve.core.errors import ConfigError, InstanceUnavailable, InvalidTokens
from memserve.core.ids import InstanceId, RequestId
from memserve.scheduler.decision import Decision, Outcome
from memserve.scheduler.scheduler import Scheduler
from memserve.wire.events import SnapshotPart
from memserve.wire.messages import RequestReport

PROMPT = list(range(100, 140))
OTHER = list(range(500, 540))
ONE, TWO = RequestId("1"), RequestId("2")


def new_scheduler(
    *,
    policy: str = "prompt-tree",
    caching: CachingMode = CachingMode.RETURN,
    seed: int = 0,
    clock: ManualClock | None = None,
) -> Scheduler:
    return Scheduler(block_size=4, policy=policy, clock=clock or ManualClock(), random=Random(seed), caching=caching)


def serve(scheduler: Scheduler, tokens: list[int], where: ClusterView, *, output: tuple[int, ...] = ()) -> Decision:
    """One request from beginning to end."""
    decision = scheduler.decide(request=RequestId("served"), tokens=tokens, view=where)
    scheduler.prefilled(decision.request)
    scheduler.finish(decision.request, outcome=Outcome.SERVED, output_tokens=output)
    return decision


def report(phase: Phase, *, output_tokens: int) -> RequestReport:
    return RequestReport(
        request=RequestId("served"),
        instance=InstanceId("c0"),
        phase=phase,
        prompt_tokens=40,
        hbm_tokens=0,
        dram_tokens=0,
        received_tokens=0,
        computed_tokens=40,
        output_tokens=output_tokens,
    )


def held(decision: Decision) -> dict[str, int]:
    return {c.instance: c.matched_tokens for c in decision.candidates}


def test_prefill_and_decode_instances_work_as_a_pair() -> None:
    decision = new_scheduler().decide(request=ONE, tokens=PROMPT, view=disaggregated(1, 1))
    assert (decision.prefill, decision.decode) == ("p0", "d0")


def test_a_colocated_instance_serves_alone() -> None:
    decision = new_scheduler().decide(request=ONE, tokens=PROMPT, view=colocated(1))
    assert (decision.prefill, decision.decode) == (None, "c0")


@pytest.mark.parametrize("left", ["p0", "d0"])
def test_without_one_role_any_instance_left_serves_alone(left: str) -> None:
    gone = frozenset({InstanceId("p0"), InstanceId("d0")} - {left})
    decision = new_scheduler().decide(request=ONE, tokens=PROMPT, view=disaggregated(1, 1), exclude=gone)
    assert (decision.prefill, decision.decode) == (None, left)


def test_an_instance_that_is_not_active_gets_no_request() -> None:
    where = view(instance("c0", Role.COLOCATED, InstanceState.SUSPECT), instance("c1", Role.COLOCATED))
    scheduler = new_scheduler()
    assert {scheduler.decide(request=RequestId(str(n)), tokens=PROMPT, view=where).decode for n in range(8)} == {"c1"}


def test_a_memory_instance_gets_no_request() -> None:
    with pytest.raises(InstanceUnavailable, match="of 0 serving instances none joined yet"):
        new_scheduler().decide(request=ONE, tokens=PROMPT, view=view(instance("m", Role.MEMORY)))


def test_without_any_active_instance_the_error_counts_the_states() -> None:
    where = view(
        instance("a", Role.COLOCATED, InstanceState.JOINING),
        instance("b", Role.COLOCATED, InstanceState.SUSPECT),
        instance("c", Role.COLOCATED),
    )
    with pytest.raises(InstanceUnavailable, match="of 3 serving instances 1 joining, 1 suspect, 1 already tried"):
        new_scheduler().decide(request=ONE, tokens=PROMPT, view=where, exclude=frozenset({InstanceId("c")}))


def test_a_prompt_goes_where_it_was_served_before() -> None:
    scheduler, where = new_scheduler(), disaggregated(4, 4)
    before = serve(scheduler, PROMPT, where)
    after = scheduler.decide(request=TWO, tokens=[*PROMPT, *OTHER], view=where)
    assert (after.prefill, after.decode) == (before.prefill, before.decode)


def test_idle_instances_share_new_prompts() -> None:
    scheduler = new_scheduler()
    chosen = [serve(scheduler, [n] * 8, colocated(4)).decode for n in range(40)]
    assert set(chosen) == {"c0", "c1", "c2", "c3"}


def test_the_holder_of_a_prompt_is_passed_over_once_its_queue_costs_more_than_computing_again() -> None:
    scheduler, where = new_scheduler(), colocated(2)
    holder = serve(scheduler, PROMPT, where).decode
    scheduler.decide(request=ONE, tokens=PROMPT, view=where)
    waiting = list(range(1000, 1400))
    other = frozenset({InstanceId("c0"), InstanceId("c1")} - {holder})
    scheduler.decide(request=TWO, tokens=waiting, view=where, exclude=other)
    assert scheduler.decide(request=RequestId("3"), tokens=PROMPT, view=where).decode != holder


def test_a_failed_request_teaches_nothing() -> None:
    scheduler, where = new_scheduler(), colocated(2)
    scheduler.decide(request=ONE, tokens=PROMPT, view=where)
    scheduler.finish(ONE, outcome=Outcome.FAILED)
    assert set(held(scheduler.decide(request=TWO, tokens=PROMPT, view=where)).values()) == {0}


def test_the_prefill_instance_is_known_to_hold_the_prompt_before_the_answer_is_complete() -> None:
    scheduler, where = new_scheduler(), disaggregated(1, 1)
    scheduler.decide(request=ONE, tokens=PROMPT, view=where)
    scheduler.prefilled(ONE)
    assert held(scheduler.decide(request=TWO, tokens=PROMPT, view=where)) == {"p0": 40, "d0": 0}


def test_queued_tokens_fall_to_nothing_when_requests_end_however_they_end() -> None:
    scheduler, where = new_scheduler(), disaggregated(2, 2)
    requests = [RequestId(str(n)) for n in range(6)]
    for request in requests:
        scheduler.decide(request=request, tokens=PROMPT, view=where)
    for request in requests[:3]:
        scheduler.prefilled(request)
    for request in requests:
        scheduler.finish(request, outcome=Outcome.FAILED)
        scheduler.finish(request, outcome=Outcome.SERVED)
    assert scheduler.stats().queued_tokens == {}
    assert scheduler.stats().num_in_flight == 0


def test_only_tokens_to_be_computed_count_as_load() -> None:
    scheduler, where = new_scheduler(), disaggregated(1, 1)
    serve(scheduler, PROMPT, where)
    scheduler.decide(request=ONE, tokens=[*PROMPT, 1, 2, 3], view=where)
    assert scheduler.stats().queued_tokens[InstanceId("p0")] == 3


def test_a_decode_instance_that_must_take_more_in_has_more_queued() -> None:
    scheduler, where = new_scheduler(), disaggregated(1, 1)
    scheduler.decide(request=ONE, tokens=PROMPT, view=where)
    lacking_all = scheduler.stats().queued_tokens[InstanceId("d0")]
    serve(scheduler, PROMPT, where)
    scheduler.decide(request=ONE, tokens=PROMPT, view=where)
    assert lacking_all - scheduler.stats().queued_tokens[InstanceId("d0")] == len(PROMPT)


def test_longer_answers_make_later_requests_weigh_more() -> None:
    scheduler, where = new_scheduler(), colocated(1)
    before = scheduler.stats().expected_output_tokens
    serve(scheduler, PROMPT, where)
    scheduler.answered(report(Phase.PREFILL, output_tokens=1))
    assert scheduler.stats().expected_output_tokens == before
    scheduler.answered(report(Phase.WHOLE, output_tokens=1000))
    assert scheduler.stats().expected_output_tokens > before


def test_after_its_prefill_a_request_no_longer_weighs_on_the_prefill_instance() -> None:
    scheduler, where = new_scheduler(), disaggregated(1, 1)
    scheduler.decide(request=ONE, tokens=PROMPT, view=where)
    scheduler.prefilled(ONE)
    assert list(scheduler.stats().queued_tokens) == ["d0"]


def test_deciding_again_moves_the_load() -> None:
    scheduler, where = new_scheduler(), colocated(2)
    first = scheduler.decide(request=ONE, tokens=PROMPT, view=where).decode
    second = scheduler.decide(request=ONE, tokens=PROMPT, view=where, exclude=frozenset({first})).decode
    assert second != first
    assert list(scheduler.stats().queued_tokens) == [second]


def test_a_forgotten_instance_holds_nothing_and_has_nothing_queued() -> None:
    scheduler, where = new_scheduler(), disaggregated(1, 1)
    serve(scheduler, PROMPT, where)
    scheduler.decide(request=ONE, tokens=PROMPT, view=where)
    scheduler.forget(InstanceId("p0"))
    assert InstanceId("p0") not in scheduler.stats().queued_tokens
    assert held(scheduler.decide(request=TWO, tokens=PROMPT, view=where)) == {"p0": 0, "d0": 40}


def test_a_request_in_flight_teaches_nothing_about_an_instance_forgotten_meanwhile() -> None:
    scheduler, where = new_scheduler(), disaggregated(1, 1)
    scheduler.decide(request=ONE, tokens=PROMPT, view=where)
    scheduler.forget(InstanceId("p0"))
    scheduler.prefilled(ONE)
    scheduler.finish(ONE, outcome=Outcome.SERVED)
    assert held(scheduler.decide(request=TWO, tokens=PROMPT, view=where)) == {"p0": 0, "d0": 40}


@pytest.mark.parametrize(
    ("caching", "at_prefill", "at_decode"),
    [
        (CachingMode.BASIC, 0, 0),
        (CachingMode.PREFILL, 40, 0),
        (CachingMode.BOTH, 40, 44),
        (CachingMode.RETURN, 44, 44),
    ],
)
def test_what_is_held_after_an_answer_follows_the_caching_mode(
    caching: CachingMode, at_prefill: int, at_decode: int
) -> None:
    scheduler, where = new_scheduler(caching=caching), disaggregated(1, 1)
    output = (1, 2, 3, 4, 5)
    serve(scheduler, PROMPT, where, output=output)
    again = scheduler.decide(request=TWO, tokens=[*PROMPT, *output, 6, 7, 8], view=where)
    assert held(again) == {"p0": at_prefill, "d0": at_decode}


def test_the_last_output_token_is_not_counted_as_held() -> None:
    scheduler, where = new_scheduler(), colocated(1)
    serve(scheduler, PROMPT, where, output=(1, 2, 3, 4))
    assert held(scheduler.decide(request=TWO, tokens=[*PROMPT, 1, 2, 3, 4], view=where)) == {"c0": 40}


def test_salted_prompts_are_not_shared() -> None:
    scheduler, where = new_scheduler(), colocated(1)
    serve(scheduler, PROMPT, where)
    assert held(scheduler.decide(request=TWO, tokens=PROMPT, namespace=b"salt", view=where)) == {"c0": 0}


def test_arrays_bytes_and_lists_of_tokens_are_the_same_prompt() -> None:
    scheduler, where = new_scheduler(), colocated(1)
    serve(scheduler, PROMPT, where)
    array = np.array(PROMPT, dtype=np.int32)
    for tokens in (array, array.astype(np.int64), array.tobytes()):
        assert held(scheduler.decide(request=TWO, tokens=tokens, view=where)) == {"c0": 40}


@pytest.mark.parametrize("tokens", [b"123", np.zeros((2, 2), dtype=np.int32), np.zeros(2), [2**40], ["a"]])
def test_what_is_no_list_of_tokens_is_refused_and_leaves_no_load(tokens: object) -> None:
    scheduler = new_scheduler()
    with pytest.raises(InvalidTokens):
        scheduler.decide(request=ONE, tokens=tokens, view=colocated(1))  # type: ignore[arg-type]
    assert scheduler.stats().num_in_flight == 0


def test_a_new_view_is_seen_at_once() -> None:
    scheduler = new_scheduler()
    scheduler.decide(request=ONE, tokens=PROMPT, view=colocated(1))
    later = scheduler.decide(request=TWO, tokens=PROMPT, view=view(instance("n", Role.COLOCATED), epoch=2))
    assert (later.decode, later.epoch) == ("n", 2)


def test_the_same_seed_gives_the_same_decisions() -> None:
    runs = [
        [serve(new, [n] * 8, disaggregated(3, 3)).decode for n in range(20)]
        for new in (new_scheduler(seed=5), new_scheduler(seed=5))
    ]
    assert runs[0] == runs[1]


def test_an_unknown_policy_is_refused_at_the_start() -> None:
    with pytest.raises(ConfigError, match="known"):
        new_scheduler(policy="fastest")


def test_a_prompt_that_is_on_its_way_draws_those_that_share_it() -> None:
    scheduler, where = new_scheduler(), colocated(8)
    first = scheduler.decide(request=ONE, tokens=PROMPT, view=where)
    scheduler.sent(ONE)
    second = scheduler.decide(request=TWO, tokens=[*PROMPT, *OTHER], view=where)
    assert held(second)[first.decode] == len(PROMPT)


def test_a_promise_that_nobody_kept_ends_with_the_ttl() -> None:
    clock = ManualClock()
    scheduler, where = new_scheduler(clock=clock), colocated(2)
    scheduler.decide(request=ONE, tokens=PROMPT, view=where)
    scheduler.sent(ONE)
    scheduler.finish(ONE, outcome=Outcome.FAILED)
    clock.advance(601)
    assert set(held(scheduler.decide(request=TWO, tokens=PROMPT, view=where)).values()) == {0}


def test_nothing_is_promised_where_nobody_caches() -> None:
    scheduler, where = new_scheduler(caching=CachingMode.BASIC), colocated(2)
    scheduler.decide(request=ONE, tokens=PROMPT, view=where)
    scheduler.sent(ONE)
    assert set(held(scheduler.decide(request=TWO, tokens=PROMPT, view=where)).values()) == {0}


def followed(scheduler: Scheduler, where: ClusterView) -> None:
    """Its instances announce what they hold: nothing so far."""
    for one in where.instances:
        scheduler.admit(one.instance, one.incarnation, one.role)
        part = SnapshotPart(
            instance=one.instance, incarnation=one.incarnation, seq=0, entries=(), is_first=True, is_last=True
        )
        scheduler.reset(part)


def test_a_promise_lasts_while_the_request_waits_for_its_prefill_and_ends_soon_after_it_failed() -> None:
    clock = ManualClock()
    scheduler, where = new_scheduler(clock=clock), colocated(2)
    followed(scheduler, where)
    first = scheduler.decide(request=ONE, tokens=PROMPT, view=where)
    scheduler.sent(ONE)
    for _ in range(20):  # 200 s in the queue, while others come
        clock.advance(10.0)
        scheduler.decide(request=TWO, tokens=OTHER, view=where)
    assert held(scheduler.decide(request=RequestId("3"), tokens=PROMPT, view=where))[first.decode] == len(PROMPT)
    scheduler.finish(ONE, outcome=Outcome.FAILED)
    clock.advance(410.0)
    assert set(held(scheduler.decide(request=RequestId("3"), tokens=PROMPT, view=where)).values()) == {0}

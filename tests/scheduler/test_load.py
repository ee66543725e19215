"""The ledger counts each share once and ends empty."""

from memserve.core.clock import ManualClock
from memserve.core.enums import Phase
from memserve.core.ids import InstanceId, RequestId
from memserve.scheduler.load import LoadLedger
from memserve.scheduler.load_table import RECENT_S

A, B = InstanceId("a"), InstanceId("b")
ONE, TWO = RequestId("1"), RequestId("2")


def test_shares_of_all_requests_add_up() -> None:
    load = LoadLedger(ManualClock())
    load.add(request=ONE, phase=Phase.PREFILL, instance=A, num_tokens=100)
    load.add(request=TWO, phase=Phase.DECODE, instance=A, num_tokens=5)
    assert load.of((A, B)).tokens.tolist() == [105, 0]


def test_a_repeated_share_replaces_the_first() -> None:
    load = LoadLedger(ManualClock())
    load.add(request=ONE, phase=Phase.PREFILL, instance=A, num_tokens=100)
    load.add(request=ONE, phase=Phase.PREFILL, instance=B, num_tokens=70)
    assert load.snapshot() == {B: 70}


def test_dropping_a_phase_twice_takes_it_out_once() -> None:
    load = LoadLedger(ManualClock())
    load.add(request=ONE, phase=Phase.PREFILL, instance=A, num_tokens=100)
    load.add(request=TWO, phase=Phase.PREFILL, instance=A, num_tokens=10)
    load.drop(ONE, Phase.PREFILL)
    load.drop(ONE, Phase.PREFILL)
    assert load.of((A,)).tokens.tolist() == [10]


def test_a_forgotten_instance_has_nothing_queued_and_later_drops_change_nothing() -> None:
    load = LoadLedger(ManualClock())
    load.add(request=ONE, phase=Phase.PREFILL, instance=A, num_tokens=100)
    load.add(request=ONE, phase=Phase.DECODE, instance=B, num_tokens=10)
    load.forget(A)
    assert load.snapshot() == {B: 10}
    load.drop_all(ONE)
    assert load.snapshot() == {}


def test_queued_seconds_go_by_while_a_prefill_is_under_way_and_no_further_than_its_share() -> None:
    clock = ManualClock()
    load = LoadLedger(clock)
    for request in (ONE, TWO):
        load.add(request=request, phase=Phase.PREFILL, instance=A, num_tokens=1, seconds=2.0)
    assert load.of((A, B)).prefill_s.tolist() == [4.0, 0.0]
    clock.advance(1.5)
    assert load.of((A, B)).prefill_s.tolist() == [2.5, 0.0]
    clock.advance(100.0)
    assert load.of((A,)).prefill_s.tolist() == [2.0]
    load.drop(ONE, Phase.PREFILL)
    load.drop(TWO, Phase.PREFILL)
    assert load.of((A,)).prefill_s.tolist() == [0.0]


def test_time_given_to_prefills_is_a_share_that_fades() -> None:
    clock = ManualClock()
    load = LoadLedger(clock)
    load.add(request=ONE, phase=Phase.PREFILL, instance=A, num_tokens=1, seconds=RECENT_S / 2)
    load.drop_all(ONE)
    assert load.of((A, B)).prefill_share.tolist() == [0.5, 0.0]
    clock.advance(10 * RECENT_S)
    assert load.of((A,)).prefill_share[0] < 0.001


def test_answers_count_with_the_context_that_they_keep() -> None:
    load = LoadLedger(ManualClock())
    for request in (ONE, TWO):
        load.add(request=request, phase=Phase.DECODE, instance=A, num_tokens=5, context_tokens=100)
    load.drop_all(TWO)
    found = load.of((A,))
    assert (found.decodes.tolist(), found.context.tolist()) == ([1.0], [100.0])
    assert (load.decoding(A), load.decoding(B)) == ((1.0, 100.0), (0.0, 0.0))


def test_who_was_not_seen_computing_is_as_fast_as_usual() -> None:
    load = LoadLedger(ManualClock())
    assert load.of((A, B)).pace.tolist() == [1.0, 1.0]
    load.set_pace(A, 1.5, usual=2.0)
    assert load.of((A, B)).pace.tolist() == [3.0, 2.0]


def test_many_instances_come_and_go() -> None:
    load = LoadLedger(ManualClock())
    names = tuple(InstanceId(str(number)) for number in range(100))
    for number, name in enumerate(names):
        load.add(request=RequestId(name), phase=Phase.PREFILL, instance=name, num_tokens=number)
    assert load.of(names).tokens.tolist() == [*range(100)]
    load.forget(names[7])
    assert load.of((names[7], names[8], B)).tokens.tolist() == [0, 8, 0]

"""The ledger counts each share once and ends empty."""

from memserve.core.enums import Phase
from memserve.core.ids import InstanceId, RequestId
from memserve.scheduler.load import LoadLedger

A, B = InstanceId("a"), InstanceId("b")
ONE, TWO = RequestId("1"), RequestId("2")


def test_shares_of_all_requests_add_up() -> None:
    load = LoadLedger()
    load.add(request=ONE, phase=Phase.PREFILL, instance=A, num_tokens=100)
    load.add(request=TWO, phase=Phase.DECODE, instance=A, num_tokens=5)
    assert load.queued([A, B]) == [105, 0]


def test_a_repeated_share_replaces_the_first() -> None:
    load = LoadLedger()
    load.add(request=ONE, phase=Phase.PREFILL, instance=A, num_tokens=100)
    load.add(request=ONE, phase=Phase.PREFILL, instance=B, num_tokens=70)
    assert load.snapshot() == {B: 70}


def test_dropping_a_phase_twice_takes_it_out_once() -> None:
    load = LoadLedger()
    load.add(request=ONE, phase=Phase.PREFILL, instance=A, num_tokens=100)
    load.add(request=TWO, phase=Phase.PREFILL, instance=A, num_tokens=10)
    load.drop(ONE, Phase.PREFILL)
    load.drop(ONE, Phase.PREFILL)
    assert load.queued([A]) == [10]


def test_a_forgotten_instance_has_nothing_queued_and_later_drops_change_nothing() -> None:
    load = LoadLedger()
    load.add(request=ONE, phase=Phase.PREFILL, instance=A, num_tokens=100)
    load.add(request=ONE, phase=Phase.DECODE, instance=B, num_tokens=10)
    load.forget(A)
    assert load.snapshot() == {B: 10}
    load.drop_all(ONE)
    assert load.snapshot() == {}

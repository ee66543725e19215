"""The background copier: order, failure, settling."""

import threading

import pytest

from memserve.engines.vllm.copier import BlockCopier


@pytest.fixture
def copier():
    made = BlockCopier("copier-under-test")
    yield made
    made.close()


def test_loads_overtake_saves_that_wait(copier: BlockCopier) -> None:
    gate, order = threading.Event(), []
    copier.submit(gate.wait, priority=0, on_end=lambda _: None)
    copier.submit(lambda: order.append("save"), priority=2, on_end=lambda _: None)
    copier.submit(lambda: order.append("load"), priority=0, on_end=lambda _: None)
    gate.set()
    copier.settle()
    assert order == ["load", "save"]


def test_within_one_priority_the_order_of_submission_holds(copier: BlockCopier) -> None:
    gate, order = threading.Event(), []
    copier.submit(gate.wait, priority=0, on_end=lambda _: None)
    for number in range(50):
        copier.submit(lambda n=number: order.append(n), priority=1, on_end=lambda _: None)
    gate.set()
    copier.settle()
    assert order == list(range(50))


def test_a_task_that_raises_is_reported_and_harms_no_other(copier: BlockCopier) -> None:
    ends: list[BaseException | None] = []

    def fail() -> None:
        raise OSError("the arena is gone")

    copier.submit(fail, priority=0, on_end=ends.append)
    copier.submit(lambda: None, priority=0, on_end=ends.append)
    copier.settle()
    assert [type(e) for e in ends] == [OSError, type(None)]


def test_closing_finishes_what_was_submitted_and_can_be_repeated() -> None:
    copier, done = BlockCopier("copier-under-test"), []
    copier.submit(lambda: done.append(1), priority=2, on_end=lambda _: None)
    copier.close()
    copier.close()
    assert done == [1]

"""Retries are bounded by the requests that come, beyond a reserve."""

from memserve.gateway.retry_budget import RetryBudget


def test_the_reserve_can_be_used_at_once_and_no_more() -> None:
    budget = RetryBudget(ratio=0.2, reserve=3)
    assert [budget.take() for _ in range(4)] == [True, True, True, False]


def test_requests_pay_in_a_fraction_of_a_retry() -> None:
    budget = RetryBudget(ratio=0.5, reserve=1)
    assert budget.take()
    budget.request_came()
    assert not budget.take()
    budget.request_came()
    assert budget.take()


def test_no_more_than_the_reserve_is_saved_up() -> None:
    budget = RetryBudget(ratio=0.5, reserve=2)
    for _ in range(100):
        budget.request_came()
    assert budget.num_left == 2

"""When an instance that ended is started again."""

from memserve.cluster.restarts import RestartRules, Restarts

RULES = RestartRules(max_restarts=4, first_wait_s=1.0, longest_wait_s=5.0, stable_s=100.0)


def test_the_wait_doubles_up_to_a_cap_and_then_it_is_given_up() -> None:
    restarts = Restarts(RULES)
    assert [restarts.ended(ran_s=1.0) for _ in range(5)] == [1.0, 2.0, 4.0, 5.0, None]


def test_a_stable_run_makes_the_next_end_the_first_again() -> None:
    restarts = Restarts(RULES)
    assert [restarts.ended(ran_s=ran_s) for ran_s in (1.0, 1.0, 100.0, 1.0)] == [1.0, 2.0, 1.0, 2.0]
    assert restarts.num_in_row == 2


def test_with_no_restarts_allowed_the_first_end_is_the_last() -> None:
    assert Restarts(RestartRules(max_restarts=0)).ended(ran_s=1e9) is None

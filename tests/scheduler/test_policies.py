"""Each policy prefers what its name says."""

from random import Random

import pytest

from memserve.core.errors import ConfigError
from memserve.core.ids import InstanceId
from memserve.scheduler.policies import Choice, find_policy

NAMES = [InstanceId(f"i{n}") for n in range(4)]


def choice(
    *,
    matched: tuple[int, ...] = (0, 0, 0, 0),
    queued: tuple[int, ...] = (0, 0, 0, 0),
    used: tuple[int, ...] = (0, 0, 0, 0),
    session: str = "",
    tokens: int = 100,
) -> Choice:
    names = NAMES[: len(queued)]
    return Choice(
        prompt_tokens=tokens, session=session, instances=names, matched=matched, queued=queued, used=used[: len(queued)]
    )


def best(name: str, *choices: Choice) -> list[int]:
    weigh = find_policy(name).make(Random(1))
    all_scores = [weigh.scores(one) for one in choices]
    return [scores.index(min(scores)) for scores in all_scores]


def test_prompt_tree_takes_the_fewest_tokens_to_compute_in_all() -> None:
    assert best("prompt-tree", choice(matched=(96, 0, 48, 0), queued=(90, 10, 0, 60))) == [2]


def test_prompt_tree_leaves_a_loaded_holder_for_an_idle_instance_only_when_that_is_sooner() -> None:
    busy_by_50 = choice(matched=(80, 0, 0, 0), queued=(50, 0, 0, 0))
    busy_by_110 = choice(matched=(80, 0, 0, 0), queued=(110, 0, 0, 0))
    assert best("prompt-tree", busy_by_50) == [0]
    assert best("prompt-tree", busy_by_110) != [0]


def test_prompt_tree_keeps_a_prompt_where_it_is_held_while_all_queues_are_long() -> None:
    crowded = choice(matched=(80, 0, 0, 0), queued=(1200, 1100, 1100, 1100))
    assert best("prompt-tree", crowded) == [0]
    far_behind = choice(matched=(80, 0, 0, 0), queued=(3000, 1100, 1100, 1100))
    assert best("prompt-tree", far_behind) == [1]


def test_a_short_prefix_that_all_share_draws_nobody_to_its_first_holder() -> None:
    assert best("prompt-tree", choice(matched=(0, 9, 0, 0))) == [0]
    assert best("prompt-tree", choice(matched=(0, 10, 0, 0))) == [1]


def test_least_load_ignores_what_is_held() -> None:
    assert best("least-load", choice(matched=(96, 0, 0, 0), queued=(3, 2, 1, 4))) == [2]


def test_round_robin_gives_each_its_turn() -> None:
    assert best("round-robin", *[choice()] * 5) == [0, 1, 2, 3, 0]


def test_a_session_stays_where_it_is() -> None:
    assert len(set(best("session", *[choice(session="chat-7")] * 10))) == 1


def test_sessions_spread() -> None:
    assert set(best("session", *[choice(session=f"chat-{n}") for n in range(50)])) == {0, 1, 2, 3}


def test_when_an_instance_leaves_only_its_own_sessions_move() -> None:
    for session in (f"chat-{n}" for n in range(30)):
        before = best("session", choice(session=session))[0]
        after = best("session", choice(session=session, matched=(0, 0, 0), queued=(0, 0, 0)))[0]
        assert before in (after, 3)


def test_a_request_without_session_goes_by_load() -> None:
    assert best("session", choice(queued=(3, 2, 0, 4))) == [2]


def test_power_of_two_never_takes_the_most_loaded() -> None:
    taken = best("power-of-two", *[choice(queued=(1, 2, 3, 9))] * 40)
    assert 3 not in taken
    assert len(set(taken)) > 1


def test_an_unknown_policy_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"\"fastest\" is not known.*least-load.*prompt-tree.*session"):
        find_policy("fastest")


def test_load_counts_what_is_to_be_computed_and_the_blocks_in_use() -> None:
    busy_with_context = choice(queued=(10, 40, 40, 40), used=(100, 0, 64, 64))
    assert best("least-load", busy_with_context) == [1]
    assert set(best("power-of-two", *[choice(queued=(9, 9, 9, 9), used=(0, 0, 0, 500))] * 30)) == {0, 1, 2}

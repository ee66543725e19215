"""Each policy prefers what its name says."""

from random import Random

import numpy as np
import pytest

from memserve.core.enums import Phase
from memserve.core.errors import ConfigError
from memserve.core.ids import InstanceId
from memserve.scheduler.choice import Choice, Costs
from memserve.scheduler.cost_model import DecodeTerms
from memserve.scheduler.load import InstanceLoads
from memserve.scheduler.policies import find_policy

NAMES = tuple(InstanceId(f"i{n}") for n in range(4))
FOUR = (0.0, 0.0, 0.0, 0.0)
STEPS = DecodeTerms(fixed_s=0.01, per_sequence_s=0.001, per_context_token_s=0.0)


def choice(
    *,
    phase: Phase = Phase.WHOLE,
    queued: tuple[float, ...] = FOUR,
    used: tuple[int, ...] = (0, 0, 0, 0),
    session: str = "",
    wait_s: tuple[float, ...] = FOUR,
    compute_s: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0),
    move_s: tuple[float, ...] = FOUR,
    decodes: tuple[float, ...] = FOUR,
    share: tuple[float, ...] = FOUR,
    output_tokens: float = 0.0,
    context: tuple[float, ...] = FOUR,
    kv_capacity_tokens: int | None = None,
    may_split: bool = True,
) -> Choice:
    count = len(queued)
    loads = InstanceLoads(
        tokens=np.array(queued),
        prefill_s=np.array(wait_s),
        decodes=np.array(decodes),
        context=np.array(context[:count]),
        prefill_share=np.array(share),
        pace=np.ones(count),
    )
    costs = Costs(
        compute_s=np.array(compute_s),
        whole_s=1.0,
        move_s=np.array(move_s),
        decode=STEPS,
        decode_pace=1.0,
        output_tokens=output_tokens,
        kv_capacity_tokens=kv_capacity_tokens,
    )
    return Choice(
        phase=phase,
        may_split=may_split,
        prompt_tokens=100,
        session=session,
        instances=NAMES[:count],
        matched=np.zeros(count, dtype=np.int64),
        used=np.array(used[:count]),
        loads=loads,
        costs=costs,
    )


def best(name: str, *choices: Choice) -> list[int]:
    weigh = find_policy(name).make(Random(1))
    return [int(np.argmin(weigh.scores(one))) for one in choices]


def test_prompt_tree_takes_the_least_time_to_wait_and_compute_in_all() -> None:
    assert best("prompt-tree", choice(compute_s=(0.1, 1.0, 0.5, 1.0), wait_s=(0.9, 0.2, 0.0, 0.6))) == [2]


def test_prompt_tree_leaves_a_loaded_holder_for_an_idle_instance_only_when_that_is_sooner() -> None:
    busy, busier = ((wait, 0.0, 0.0, 0.0) for wait in (0.5, 1.0))
    assert best("prompt-tree", choice(compute_s=(0.2, 1.0, 1.0, 1.0), wait_s=busy)) == [0]
    assert best("prompt-tree", choice(compute_s=(0.2, 1.0, 1.0, 1.0), wait_s=busier)) != [0]


def test_prompt_tree_keeps_a_prompt_where_it_is_held_while_all_queues_are_long() -> None:
    crowded, far_behind = ((wait, 11.0, 11.5, 11.5) for wait in (12.0, 30.0))
    assert best("prompt-tree", choice(compute_s=(0.2, 1.0, 1.0, 1.0), wait_s=crowded)) == [0]
    assert best("prompt-tree", choice(compute_s=(0.2, 1.0, 1.0, 1.0), wait_s=far_behind)) == [1]


def test_prompt_tree_spares_those_who_are_decoding_a_prefill() -> None:
    assert best("prompt-tree", choice(decodes=(9, 3, 5, 9))) == [1]


def test_prompt_tree_has_answers_produced_where_few_prefills_are_in_the_way() -> None:
    shares = (0.8, 0.4, 0.0, 0.6)
    assert best("prompt-tree", choice(phase=Phase.DECODE, share=shares, output_tokens=100)) == [2]


def test_prompt_tree_has_answers_produced_where_least_has_to_be_moved() -> None:
    assert best("prompt-tree", choice(phase=Phase.DECODE, move_s=(0.2, 0.2, 0.1, 0.2), output_tokens=100)) == [2]


def test_prompt_tree_prefers_the_less_busy_of_two_that_cost_the_same() -> None:
    assert best("prompt-tree", choice(share=(0.5, 0.2, 0.3, 0.5))) == [1]


def test_prompt_tree_avoids_an_instance_on_whose_device_the_kv_would_not_fit() -> None:
    asked = {"may_split": False, "context": (950.0, 700.0, 950.0, 950.0), "share": (0.0, 0.05, 0.0, 0.0)}
    assert best("prompt-tree", choice(**asked, output_tokens=10.0)) != [1]
    assert best("prompt-tree", choice(**asked, output_tokens=10.0, kv_capacity_tokens=1000)) == [1]


def test_prompt_tree_does_not_count_the_wait_for_room_while_prefills_take_longer() -> None:
    asked = {"may_split": False, "context": (1500.0, 900.0), "queued": (0, 0), "output_tokens": 10.0}
    waits = {"wait_s": (20.0, 20.02), "compute_s": (1.0, 1.0), "decodes": (1.0, 1.0), "share": (0.0, 0.0)}
    assert best("prompt-tree", choice(**asked, **waits, move_s=(0.0, 0.0), kv_capacity_tokens=1000)) == [0]


def test_least_load_ignores_what_is_held() -> None:
    assert best("least-load", choice(compute_s=(0.0, 1.0, 1.0, 1.0), queued=(3, 2, 1, 4))) == [2]


def test_round_robin_gives_each_its_turn() -> None:
    assert best("round-robin", *[choice()] * 5) == [0, 1, 2, 3, 0]


def test_a_session_stays_where_it_is() -> None:
    assert len(set(best("session", *[choice(session="chat-7")] * 10))) == 1


def test_sessions_spread() -> None:
    assert set(best("session", *[choice(session=f"chat-{n}") for n in range(50)])) == {0, 1, 2, 3}


def test_when_an_instance_leaves_only_its_own_sessions_move() -> None:
    for session in (f"chat-{n}" for n in range(30)):
        before = best("session", choice(session=session))[0]
        after = best("session", choice(session=session, queued=(0, 0, 0)))[0]
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

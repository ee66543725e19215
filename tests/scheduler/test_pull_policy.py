"""Pull or recompute: the choice on both sides of the crossover, and how the crossover moves with what happened."""

from random import Random

import pytest
from clusters import IDENTITY, colocated, disaggregated, instance, view

from memserve.cluster.view import ClusterView, InstanceState
from memserve.core.clock import ManualClock
from memserve.core.enums import CachingMode, Phase, Role, Tier, TransferMode
from memserve.core.ids import Incarnation, InstanceId, RequestId
from memserve.scheduler.cost_model import PathTerms, PrefillTerms
from memserve.scheduler.decision import Decision, Outcome, PullWeighing
from memserve.scheduler.pull_policy import PullPolicy
from memserve.scheduler.scheduler import Scheduler
from memserve.scheduler.tokens import token_bytes
from memserve.wire.events import IndexEntry, SnapshotPart, TierRun
from memserve.wire.messages import MovedBlocks, RequestReport

A, B = InstanceId("c0"), InstanceId("c1")
BYTES_PER_TOKEN = IDENTITY.block_bytes / IDENTITY.block_size
PROMPT = list(range(4_000))


def policy(*, per_token_s: float = 0.001, per_pair_s: float = 0.0, latency_s: float = 0.1) -> PullPolicy:
    """Pays from 100 gained tokens on, unless told otherwise: bytes cost next to nothing."""
    return PullPolicy(
        prefill=PrefillTerms(fixed_s=0.5, per_token_s=per_token_s, per_pair_s=per_pair_s),
        path=PathTerms(latency_s=latency_s, bytes_per_s=1e12),
    )


def weigh(by: PullPolicy, gained: int, *, held: int = 0, target: InstanceId = B) -> PullWeighing:
    return by.weigh(
        target=target,
        source=A,
        prompt_tokens=4_000,
        held_tokens=held,
        source_tokens=held + gained,
        bytes_per_token=BYTES_PER_TOKEN,
    )


def moved(*, seconds: float, mode: TransferMode = TransferMode.BY_REQUEST) -> MovedBlocks:
    return MovedBlocks(
        source=A,
        target=B,
        path="shm",
        num_blocks=1,
        num_tokens=4,
        num_bytes=64,
        num_calls=1,
        seconds=seconds,
        mode=mode,
    )


def report(*moves: MovedBlocks) -> RequestReport:
    return RequestReport(
        request=RequestId("r"), instance=B, phase=Phase.WHOLE, prompt_tokens=4, hbm_tokens=0, dram_tokens=4,
        received_tokens=0, computed_tokens=0, output_tokens=1, moved=moves,
    )  # fmt: skip


@pytest.mark.parametrize(("gained", "is_worth_it"), [(1, False), (99, False), (101, True), (4_000, True)])
def test_a_pull_is_worth_it_from_the_crossover_on(gained: int, is_worth_it: bool) -> None:
    found = weigh(policy(), gained)
    assert found.is_worth_it == is_worth_it
    assert found.recompute_s == pytest.approx(gained * 0.001)
    assert found.transfer_s == pytest.approx(0.1, rel=1e-6)
    assert (found.gained_tokens, found.num_bytes) == (gained, round(gained * BYTES_PER_TOKEN))


def test_the_same_number_of_tokens_is_worth_more_further_back_in_the_prompt() -> None:
    by = policy(per_token_s=0.0, per_pair_s=1e-6)
    assert weigh(by, 100, held=3_000).recompute_s > weigh(by, 100).recompute_s


def test_a_narrow_path_makes_long_prefixes_not_worth_it_either() -> None:
    by = PullPolicy(
        prefill=PrefillTerms(fixed_s=0.0, per_token_s=0.001, per_pair_s=0.0),
        path=PathTerms(latency_s=0.0, bytes_per_s=BYTES_PER_TOKEN / 0.002),
    )
    assert not weigh(by, 4_000).is_worth_it


def test_slow_transfers_raise_the_crossover_of_their_pair_first() -> None:
    by = policy()
    by.predictions.moved(moved(seconds=100.0))
    by.predictions.moved(moved(seconds=0.1))
    assert not weigh(by, 200).is_worth_it
    for _ in range(20):
        by.predictions.moved(moved(seconds=0.1))
    assert weigh(by, 200).is_worth_it


def test_blocks_sent_layer_by_layer_tell_nothing_of_the_path() -> None:
    by = policy()
    by.predictions.moved(moved(seconds=100.0, mode=TransferMode.BY_LAYER))
    assert weigh(by, 200).is_worth_it


def test_a_path_that_was_once_slow_is_tried_again_some_day() -> None:
    by = policy()
    by.predictions.moved(moved(seconds=1.0))
    declined = 0
    while not (weighing := weigh(by, 200)).is_worth_it:
        by.declined(weighing, B)
        declined += 1
    assert 10 < declined < 1_000


def test_a_fast_engine_recomputes_what_a_slow_one_pulls() -> None:
    by = policy()
    for _ in range(20):
        by.predictions.prefilled(B, prompt_tokens=4_000, held_tokens=0, seconds=0.45)
    assert not weigh(by, 500).is_worth_it
    assert weigh(by, 2_000).is_worth_it


def test_short_prefills_tell_nothing_of_the_engine() -> None:
    by = policy()
    by.predictions.prefilled(B, prompt_tokens=4_000, held_tokens=3_900, seconds=60.0)
    assert not weigh(by, 99).is_worth_it


# ------------------------------------------------------------ within the scheduler


def scheduler(pulls: PullPolicy | None, *, caching: CachingMode = CachingMode.RETURN) -> tuple[Scheduler, ManualClock]:
    clock = ManualClock()
    made = Scheduler(block_size=4, policy="least-load", clock=clock, random=Random(3), caching=caching, pulls=pulls)
    return made, clock


def decide(by: Scheduler, name: str, where: ClusterView, tokens: list[int] = PROMPT) -> Decision:
    return by.decide(request=RequestId(name), tokens=tokens, view=where)


def held_by_the_busy_one(by: Scheduler, where: ClusterView, tokens: list[int] = PROMPT) -> InstanceId:
    """One of two instances has computed the prompt and now does something else."""
    first = decide(by, "first", where, tokens)
    by.finish(first.request, outcome=Outcome.SERVED)
    busy = frozenset({InstanceId("c0"), InstanceId("c1")} - {first.decode})
    by.decide(request=RequestId("busy"), tokens=[7] * 100, view=where, exclude=busy)
    return first.decode


def test_who_is_chosen_for_its_load_pulls_from_who_holds_the_prompt() -> None:
    by, _ = scheduler(policy())
    holder = held_by_the_busy_one(by, colocated(2))
    decision = decide(by, "again", colocated(2), [*PROMPT, 1, 2, 3, 4])
    assert decision.source == holder
    assert decision.decode != holder
    assert decision.pull is not None
    assert (decision.pull.source, decision.pull.gained_tokens) == (holder, 4_000)
    assert by.stats().queued_tokens[decision.decode] == 4 + 128
    assert decision.forecast is not None
    assert decision.forecast.prefill_s == pytest.approx(0.5 + 4 * 0.001)


def test_a_prefix_below_the_crossover_is_recomputed_and_the_numbers_are_shown() -> None:
    by, _ = scheduler(policy())
    held_by_the_busy_one(by, colocated(2), PROMPT[:40])
    decision = decide(by, "again", colocated(2), PROMPT[:48])
    assert decision.source is None
    assert decision.pull is not None
    assert decision.pull.gained_tokens == 40
    assert decision.pull.transfer_s > decision.pull.recompute_s


def test_an_instance_that_holds_the_most_pulls_from_nobody() -> None:
    by, _ = scheduler(policy())
    first = decide(by, "first", colocated(1))
    by.finish(first.request, outcome=Outcome.SERVED)
    decision = decide(by, "again", colocated(1))
    assert (decision.source, decision.pull) == (None, None)


def test_a_prefill_instance_that_came_back_empty_pulls_from_the_decode_instance() -> None:
    by, _ = scheduler(policy())
    decide(by, "first", disaggregated(1, 1))
    by.prefilled(RequestId("first"))
    by.finish(RequestId("first"), outcome=Outcome.SERVED)
    by.forget(InstanceId("p0"))
    assert decide(by, "again", disaggregated(1, 1)).source == "d0"


def test_kv_of_a_decode_instance_comes_back_in_no_other_mode_than_return() -> None:
    by, _ = scheduler(policy(), caching=CachingMode.BOTH)
    decide(by, "first", disaggregated(1, 1))
    by.prefilled(RequestId("first"))
    by.finish(RequestId("first"), outcome=Outcome.SERVED)
    by.forget(InstanceId("p0"))
    decision = decide(by, "again", disaggregated(1, 1))
    assert (decision.source, decision.pull) == (None, None)


def with_memory(*, state: InstanceState = InstanceState.ACTIVE) -> ClusterView:
    return view(instance("c0", Role.COLOCATED), instance("m0", Role.MEMORY, state))


def memory_holds(by: Scheduler, tokens: list[int]) -> None:
    name, life = InstanceId("m0"), Incarnation(1)
    by.admit(name, life, Role.MEMORY)
    entry = IndexEntry(
        namespace=b"",
        at=0,
        tokens=token_bytes(tokens),
        tiers=(TierRun(tier=Tier.DRAM, num_blocks=len(tokens) // IDENTITY.block_size),),
    )
    by.reset(SnapshotPart(instance=name, incarnation=life, seq=1, entries=(entry,), is_first=True, is_last=True))


def test_what_only_a_memory_instance_holds_is_pulled_from_there() -> None:
    by, _ = scheduler(policy())
    memory_holds(by, PROMPT)
    decision = decide(by, "again", with_memory())
    assert (decision.decode, decision.source) == ("c0", "m0")


def test_a_memory_instance_that_holds_no_more_than_the_others_is_no_source() -> None:
    by, _ = scheduler(policy())
    first = decide(by, "first", with_memory())
    by.finish(first.request, outcome=Outcome.SERVED)
    memory_holds(by, PROMPT)
    assert decide(by, "again", with_memory()).source is None


def test_a_memory_instance_that_is_not_heard_is_no_source() -> None:
    by, _ = scheduler(policy())
    memory_holds(by, PROMPT)
    assert decide(by, "again", with_memory(state=InstanceState.SUSPECT)).source is None


def test_an_excluded_instance_is_no_source() -> None:
    by, _ = scheduler(policy())
    holder = held_by_the_busy_one(by, colocated(2))
    decision = by.decide(request=RequestId("again"), tokens=PROMPT, view=colocated(2), exclude=frozenset({holder}))
    assert (decision.source, decision.pull) == (None, None)


def test_without_a_policy_for_it_nobody_pulls() -> None:
    by, _ = scheduler(None)
    held_by_the_busy_one(by, colocated(2))
    assert decide(by, "again", colocated(2)).pull is None


def test_reports_of_slow_pulls_end_them() -> None:
    by, _ = scheduler(policy())
    held_by_the_busy_one(by, colocated(2))
    for _ in range(10):
        by.answered(report(moved(seconds=1_000.0)))
    assert decide(by, "again", colocated(2)).source is None


def test_prefills_of_an_idle_instance_teach_how_fast_it_is() -> None:
    by, clock = scheduler(policy())
    for number in range(10):
        decide(by, str(number), disaggregated(1, 1), [number] * 4_000)
        clock.advance(0.001)
        by.prefilled(RequestId(str(number)))
        by.finish(RequestId(str(number)), outcome=Outcome.SERVED)
    by.forget(InstanceId("p0"))
    assert decide(by, "again", disaggregated(1, 1), [9] * 4_000).source is None

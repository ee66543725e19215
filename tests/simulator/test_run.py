"""Whole simulated clusters: the modelled times, the real scheduler's and pool's effect on them."""

import msgspec
import pytest
from traces import MOONCAKE, conversations, trace_of

from memserve.core.clock import ManualClock
from memserve.core.enums import CachingMode
from memserve.core.errors import ConfigError
from memserve.core.ids import InstanceId
from memserve.scheduler.cost_model import CostModel, CostProfile, DecodeTerms, PathTerms, PrefillTerms, ProfileIdentity
from memserve.simulator.answers import with_answers
from memserve.simulator.links import Links
from memserve.simulator.profiles import load_profile
from memserve.simulator.result import SimulationResult
from memserve.simulator.run import Simulation
from memserve.simulator.setting import Setting
from memserve.simulator.trace import Trace, load_trace

ROUND = CostProfile(
    identity=ProfileIdentity(model="m", engine="e", machine="round numbers"),
    source="made up",
    prefill=PrefillTerms(fixed_s=0.0, per_token_s=0.001, per_pair_s=0.0),
    decode=DecodeTerms(fixed_s=0.1, per_sequence_s=0.0, per_context_token_s=0.0),
    paths={
        "dram": PathTerms(latency_s=0.0, bytes_per_s=1e12),
        "peer": PathTerms(latency_s=1e6, bytes_per_s=1e12),  # nobody pulls
    },
    kv_bytes_per_token=1,
    kv_capacity_tokens=10_000,
)


def played(trace: Trace, **options: object) -> SimulationResult:
    setting = msgspec.structs.replace(Setting(policy="prompt-tree", instances=1, profile=ROUND), **options)
    return Simulation(trace, setting, stopwatch=ManualClock()).run()


def test_a_lone_request_takes_its_prefill_and_its_decode_steps() -> None:
    result = played(trace_of([(1, 2)], output_tokens=11))
    assert result.ttft_avg_s == pytest.approx(1.024)
    assert result.jct_avg_s == pytest.approx(1.024 + 10 * 0.1)


def test_a_repeated_prompt_is_loaded_instead_of_computed() -> None:
    result = played(trace_of([(1, 2), (1, 2)], every_s=100))
    assert result.hit_ratio == result.ideal_hit_ratio == 0.5
    assert result.ttft_avg_s == pytest.approx((1.024 + 0.001) / 2, abs=1e-6)


def test_decodes_wait_for_a_prefill_and_then_go_on_together() -> None:
    result = played(trace_of([(1,), (2,)], every_s=0.612, output_tokens=11))
    first, second = 0.512 + 10 * 0.1 + 0.512, 0.512 + 10 * 0.1
    assert result.jct_avg_s == pytest.approx((first + second) / 2)


def test_a_request_waits_until_its_kv_fits() -> None:
    small = msgspec.structs.replace(ROUND, kv_capacity_tokens=1100)
    result = played(trace_of([(1, 2), (3, 4)], every_s=0.0, output_tokens=11), profile=small)
    assert result.ttft_p99_s == pytest.approx(1.024 + 1.0 + 1.024, rel=0.02)


def test_the_same_seed_gives_the_same_run() -> None:
    trace = trace_of(conversations(20, 4), every_s=0.3)
    assert played(trace, instances=4, seed=7) == played(trace, instances=4, seed=7)


def test_a_small_pool_lets_go_of_prompts_and_its_events_tell_the_scheduler() -> None:
    trace = trace_of(conversations(8, 4), every_s=20)
    enough, scarce = played(trace), played(trace, pool_blocks=16)
    assert enough.hit_ratio == enough.ideal_hit_ratio > scarce.hit_ratio > 0


def test_twice_the_speed_only_moves_the_arrivals() -> None:
    trace = trace_of([(1,), (2,)], every_s=1.0, output_tokens=1)
    assert played(trace).ttft_avg_s == pytest.approx(0.512)
    assert played(trace, speed=2.0).ttft_avg_s == pytest.approx((0.512 + 0.524) / 2)


def test_work_is_shared_evenly_by_turns() -> None:
    result = played(trace_of([(number,) for number in range(8)], every_s=9.0), instances=4, policy="round-robin")
    assert result.load_max_over_mean == pytest.approx(1.0)


@pytest.mark.parametrize("policy", ["least-load", "session", "round-robin", "power-of-two"])
def test_the_prompt_tree_answers_conversations_sooner_than_other_policies(policy: str) -> None:
    trace = trace_of(conversations(41, 5), every_s=1.2)
    tree, other = (played(trace, instances=4, policy=name) for name in ("prompt-tree", policy))
    assert tree.ttft_avg_s < other.ttft_avg_s


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"policy": "best"}, "not known"),
        ({"eviction": "best"}, "no eviction policy"),
        ({"instances": 0}, "at least 1 instance"),
        ({"speed": 0.0}, "above 0"),
        ({"pool_blocks": 0}, "holds nothing"),
        ({"profile": msgspec.structs.replace(ROUND, kv_capacity_tokens=500)}, "longest request"),
        ({"profile": msgspec.structs.replace(ROUND, paths={})}, "no path dram and no path peer"),
    ],
)
def test_a_run_that_cannot_be_is_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        played(trace_of([(1, 2)]), **options)


def test_recorded_conversations_are_found_again_over_16_instances_in_balance() -> None:
    file = MOONCAKE / "conversation_trace.jsonl"
    if not file.exists():
        pytest.skip("the recorded traces are not on this machine")
    trace = load_trace(file, max_requests=4000)
    profile = load_profile("h800-llama2-13b-tp2")
    tree, least = (played(trace, instances=16, profile=profile, policy=name) for name in ("prompt-tree", "least-load"))
    assert tree.hit_ratio >= 0.9 * tree.ideal_hit_ratio
    assert tree.load_max_over_mean <= 1.3
    assert tree.ttft_avg_s < least.ttft_avg_s


PAIR = msgspec.structs.replace(
    ROUND, paths={**ROUND.paths, "peer": PathTerms(latency_s=0.5, bytes_per_s=1024.0)}, kv_bytes_per_token=1
)
"""A prompt of 1,024 tokens takes 1.024 s to compute and 1.5 s to send."""


def test_a_split_request_is_prefilled_handed_over_and_decoded() -> None:
    trace = trace_of([(1, 2)], output_tokens=11)
    result = played(trace, instances=2, layout="1p1d", profile=PAIR)
    handed_over = 1.024 + 1.5
    assert result.ttft_avg_s == pytest.approx(1.024, abs=1e-6)
    assert result.jct_avg_s == pytest.approx(handed_over + 10 * 0.1, abs=1e-6)
    assert (result.split_ratio, result.moved_bytes) == (1.0, 1024)


def test_only_what_the_decode_instance_lacks_is_handed_over_and_the_answer_goes_back() -> None:
    prompts = [(1, 2), (1, 2, 3, 4, 5)]
    trace = with_answers(trace_of(prompts, every_s=100.0, output_tokens=512))
    result = played(trace, instances=2, layout="1p1d", profile=PAIR)
    assert result.moved_bytes == 1024 + 512 + 2 * 512  # the prompt, its answer back, what is new of the second one
    assert result.hit_ratio == result.ideal_hit_ratio == 3 / 7


@pytest.mark.parametrize(
    ("caching", "hits", "moved"),
    [
        (CachingMode.BASIC, 0, 1024 + 5 * 512),
        (CachingMode.PREFILL, 2, 1024 + 5 * 512),
        (CachingMode.BOTH, 2, 1024 + 2 * 512),
        (CachingMode.RETURN, 3, 1024 + 512 + 2 * 512),
    ],
)
def test_each_milestone_caches_and_sends_what_it_should(caching: CachingMode, hits: int, moved: int) -> None:
    trace = with_answers(trace_of([(1, 2), (1, 2, 3, 4, 5)], every_s=100.0, output_tokens=512))
    result = played(trace, instances=2, layout="1p1d", profile=PAIR, caching=caching)
    assert (result.hit_ratio, result.moved_bytes) == (hits / 7, moved)


def test_a_turn_comes_when_the_answer_before_it_is_complete_and_has_been_thought_about() -> None:
    trace = trace_of([(1,), (2,)], every_s=0.0, output_tokens=11)
    first, second = trace.requests
    second = msgspec.structs.replace(second, after=0, think_s=5.0)
    chained = played(msgspec.structs.replace(trace, requests=(first, second)))
    assert chained.jct_avg_s == pytest.approx(0.512 + 10 * 0.1)


def test_a_prefill_instance_holds_kv_until_it_has_been_handed_over() -> None:
    small = msgspec.structs.replace(PAIR, kv_capacity_tokens=1100)
    result = played(trace_of([(1, 2), (3, 4)], every_s=0.0, output_tokens=1), instances=2, layout="1p1d", profile=small)
    assert result.ttft_p99_s == pytest.approx(1.024 + 1.5 + 1.024, rel=0.01)


def test_a_prompt_that_is_held_elsewhere_is_pulled_when_that_is_sooner() -> None:
    fast = msgspec.structs.replace(ROUND, paths={**ROUND.paths, "peer": PathTerms(latency_s=0.01, bytes_per_s=1e6)})
    trace = trace_of([(1, 2), (1, 2)], every_s=100, output_tokens=1)
    for profile, pulls in ((fast, 0.5), (PAIR, 0.0)):
        result = played(trace, instances=2, policy="round-robin", profile=profile)
        assert (result.pull_ratio, result.hit_ratio) == (pulls, pulls)


def test_transfers_out_of_one_instance_wait_for_each_other() -> None:
    links = Links(CostModel(PAIR), memory=InstanceId("none"))
    a, b, c = (InstanceId(name) for name in "abc")
    assert links.send(source=a, target=b, num_bytes=1024, at_s=0.0) == 1.5
    assert links.send(source=a, target=c, num_bytes=1024, at_s=1.0) == 3.0
    assert links.send(source=b, target=c, num_bytes=0, at_s=1.0) == 1.0
    assert links.send(source=b, target=a, num_bytes=1024, at_s=1.0) == 2.5


@pytest.mark.parametrize(
    ("layout", "instances"), [("1p1d", 3), ("2p", 2), ("0p2d", 2), ("disaggregated", 1), ("star", 2)]
)
def test_a_layout_that_cannot_be_is_refused(layout: str, instances: int) -> None:
    with pytest.raises(ConfigError, match="layout"):
        played(trace_of([(1, 2)]), layout=layout, instances=instances, profile=PAIR)

"""What each study asks, of a gateway without a model, and what it makes of the answers."""

from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from memserve.bench.charts import draw_charts
from memserve.bench.study import layers, prefill, routing, routing_simulated, swap
from memserve.bench.study.figure import study_charts
from memserve.bench.study.record import Size, StudyReport
from memserve.bench.study.run import STUDIES, run_study
from memserve.bench.study.table import study_lines
from memserve.core.errors import ConfigError, InstanceUnavailable
from tests.bench.study.fake_gateway import FakeGateway


def silent(_: str) -> None:
    pass


async def test_each_share_of_a_prompt_is_sent_before_the_whole_of_it() -> None:
    gateway = FakeGateway()
    plan = prefill.PrefillPlan(lengths=(128,), num_rounds=1)
    async with gateway.served(prefill.CONFIG) as client:
        answer = await prefill.measure(client, plan, silent)
    asked = [body["prompt"] for body in gateway.bodies[1:]]  # the first one warms up
    assert [len(prompt) for prompt in asked] == [128, 64, 128, 96, 128, 128, 128]
    assert asked[1] == asked[2][:64]
    assert asked[0][:64] != asked[2][:64], "a prompt of its own for each share"
    assert {(p.series, p.x, p.count) for p in answer.points} == {
        (f"{percent} % cached", 128, 1) for percent in prefill.CACHED_PERCENT
    }


async def test_both_ways_of_handing_over_get_the_same_load_and_take_turns_in_going_first() -> None:
    gateway = FakeGateway()
    plan = layers.LayersPlan(loads=(1, 3), num_rounds=2, prompt_tokens=4, output_tokens=2)
    async with gateway.served(layers.CONFIG) as client:
        answer = await layers.measure(client, plan, silent)
    modes = [mode for _, mode in gateway.switches]
    assert modes == ["by-layer", "by-request", "by-request", "by-layer"] * 2
    sent = [after - before for (before, _), (after, _) in pairwise([*gateway.switches, (len(gateway.bodies), "")])]
    assert sent == [1, 1, 3, 3] * 2
    assert {(p.series, p.x, p.count) for p in answer.points if p.quantity == "JCT"} == {
        (mode, load, 2 * load) for mode in ("by-layer", "by-request") for load in (1, 3)
    }


async def test_a_prefix_counts_for_the_tier_that_the_instance_says_it_came_from() -> None:
    gateway = FakeGateway()
    plan = swap.SwapPlan(lengths=(32, 64), num_rounds=1, filler_tokens=16)
    async with gateway.served(swap.config("somewhere")) as client:
        answer = await swap.measure(client, plan, silent)
    assert {(p.series, p.x) for p in answer.points} == {
        (source, x) for source in ("recomputed", "from disk", "from DRAM") for x in (32, 64)
    }
    assert len(answer.findings) == 2


async def test_a_prefix_from_two_tiers_counts_for_none() -> None:
    gateway = FakeGateway(disk_tokens=16)
    plan = swap.SwapPlan(lengths=(32,), num_rounds=1, filler_tokens=16)
    async with gateway.served(swap.config("somewhere")) as client:
        answer = await swap.measure(client, plan, silent)
    assert {p.series for p in answer.points} == {"recomputed", "from DRAM"}
    assert "No prefix came from disk" in answer.findings[1]


async def test_every_policy_gets_documents_of_its_own_that_sessions_share() -> None:
    gateway = FakeGateway()
    plan = routing.RoutingPlan(loads=(2,), num_rounds=1, num_documents=2, document_tokens=20, question_tokens=3)
    async with gateway.served(routing.CONFIG) as client:
        answer = await routing.measure(client, plan, silent)
    assert [policy for _, policy in gateway.switches] == list(routing.POLICIES)
    asked = [(session, tuple(b["prompt"][:20])) for session, b in zip(gateway.sessions, gateway.bodies, strict=True)]
    by_document: dict[tuple[int, ...], set[str]] = {}
    for session, document in asked[2:]:  # the first two warm up
        by_document.setdefault(document, set()).add(session)
    assert sorted(map(len, by_document.values())) == [3] * 2 * len(routing.POLICIES)
    assert {(p.series, p.quantity, p.count) for p in answer.points} == {
        (policy, quantity, 1) for policy in routing.POLICIES for quantity in ("TTFT_avg", "TTFT_longest", "computed")
    }


def test_the_simulated_workload_is_the_papers() -> None:
    trace = routing_simulated.document_trace(0)
    by_document: dict[int, set[str]] = {}
    for request in trace.requests:
        by_document.setdefault(request.blocks[0], set()).add(request.session)
    assert (len(trace.requests), len(set.union(*by_document.values()))) == (250, 80)
    assert {len(sessions) for sessions in by_document.values()} <= {2, 3}
    assert trace == routing_simulated.document_trace(0)
    assert trace != routing_simulated.document_trace(1)


async def test_a_server_that_fails_ends_the_study_with_its_own_words() -> None:
    gateway = FakeGateway(fails_after=2)
    with pytest.raises(InstanceUnavailable, match=r"503.*no active instance"):
        await run_study("prefill", size=Size.QUICK, seed=0, say=silent, served=gateway.served)


async def test_a_study_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match='no study "prefil": choose one of prefill, layers'):
        await run_study("prefil", size=Size.QUICK, seed=0, say=silent, served=FakeGateway().served)


async def test_a_finished_study_says_what_made_it_and_can_be_read_printed_and_drawn(tmp_path: Path) -> None:
    gateway = FakeGateway()
    report = await run_study("layers", size=Size.QUICK, seed=3, say=silent, served=gateway.served)
    assert (report.size, report.seed, bool(report.command), report.bench) == (Size.QUICK, 3, True, "study layers")
    report.write(tmp_path / "layers.json")
    assert msgspec.json.decode((tmp_path / "layers.json").read_bytes(), type=StudyReport) == report
    assert len(list(study_lines(report))) == 3 * 4  # quantities; two lines of heading and two loads each
    charts = study_charts(report)
    assert [chart.y for chart in charts] == ["TTFT (s)", "second token (s after the first)", "JCT (s)"]
    draw_charts(charts, tmp_path / "layers.svg")
    assert "prompts at once (requests)" in (tmp_path / "layers.svg").read_text()


def test_every_study_has_a_plan_of_either_size_and_axes_with_units() -> None:
    for study in STUDIES.values():
        assert all(quantity.unit for quantity in (study.question.x, *study.question.quantities))

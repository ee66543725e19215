"""Systems in processes of their own: measured, missing with a reason, or failing without taking the run along."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from memserve.bench.child import SystemChild, SystemSpec, start_all
from memserve.bench.index import IndexPlan, measure_shape
from memserve.bench.prompts import Shape
from memserve.bench.scheduler import PLACES, SchedulerPlan, measure_place
from memserve.core.errors import ConfigError, InstanceUnavailable

INDEX = SystemSpec(name="memserve", module="memserve_index")


@pytest.fixture
def child(tmp_path: Path) -> Iterator[SystemChild]:
    with SystemChild(INDEX, peers=tmp_path) as running:
        yield running


def test_a_peer_without_its_environment_is_missing_and_says_how_to_build_it(tmp_path: Path) -> None:
    running, missing = start_all((SystemSpec(name="x", module="y", environment="x"),), peers=tmp_path)
    assert running == []
    assert "make bench-peers" in missing[0].reason


def test_a_system_that_cannot_be_imported_is_missing_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No module named"):
        SystemChild(SystemSpec(name="x", module="not_there"), peers=tmp_path)


def test_a_request_that_fails_names_the_error_and_leaves_the_child_running(child: SystemChild) -> None:
    child.ask("open", tree="deep", blocks=32, scale=10)
    with pytest.raises(InstanceUnavailable, match="0 blocks found"):
        child.ask("match", leaves=[0], percent=100, form="int32")
    assert child.ask("open", tree="deep", blocks=32, scale=10) == ["int32", "list"]


def test_our_index_is_measured_in_both_forms_and_finds_every_prompt(child: SystemChild) -> None:
    rows = measure_shape([child], Shape("shallow", 32, 10), plan=IndexPlan(scale=10, num_rounds=1), percents=(100,))
    assert {(row.operation, row.input) for row in rows} == {
        ("insert", "int32"),
        ("insert", "list"),
        ("match", "int32"),
        ("match", "list"),
        ("memory", ""),
    }
    assert all(row.p50_us > 0 for row in rows if row.operation != "memory")


def test_our_scheduler_is_measured_on_both_kinds_of_cluster_and_knows_every_prompt(tmp_path: Path) -> None:
    with SystemChild(SystemSpec(name="memserve", module="memserve_scheduler"), peers=tmp_path) as scheduler:
        for place in PLACES:
            rows = measure_place([scheduler], place, plan=SchedulerPlan(scale=256, num_rounds=1))
            assert sorted((row.operation, row.input) for row in rows) == [
                ("choose", "int32"),
                ("choose", "list"),
                ("decide", "int32"),
                ("decide", "list"),
                ("evicted", ""),
                ("match", "int32"),
                ("match", "list"),
                ("memory", ""),
                ("stored", ""),
            ]
            assert all(row.p50_us > 0 for row in rows if row.operation != "memory")
            assert all(row.blocks_per_s > 0 for row in rows if row.operation in {"stored", "evicted"})


def test_a_discrete_hand_over_takes_two_calls_for_each_layer_of_each_block(tmp_path: Path) -> None:
    for plan, num_calls in (("aggregated", 1), ("discrete", 2 * 32 * 4)):
        with SystemChild(SystemSpec(name=plan, module="memserve_pieces", arguments=(plan,)), peers=tmp_path) as child:
            child.ask("open", path="tcp", block_bytes=4096, num_blocks=4)
            assert len(child.ask("move", count=2)) == 2
            assert child.ask("close") == num_calls

"""What `memserve simulate` and `simulate-cache` write and draw."""

from pathlib import Path

import msgspec
import pytest
from traces import conversations, trace_of

from memserve.core.errors import ConfigError
from memserve.simulator.figure import draw_cache, draw_simulation
from memserve.simulator.profiles import load_profile
from memserve.simulator.report import CacheReport, Origin, SimulationReport, cache_report, simulate, write_json
from memserve.simulator.setting import Setting

TRACE = trace_of(conversations(4, 3))
BASE = Setting(policy="prompt-tree", instances=1, profile=load_profile("h800-llama2-13b-tp2"))


HERE = Origin(version="1", commit="c", started="now", machine="m", command="memserve simulate")


def small_report(*, rate_for: int | None = None) -> SimulationReport:
    return simulate(TRACE, BASE, origin=HERE, policies=["prompt-tree", "session"], sizes=[1, 2], rate_for=rate_for)


def test_the_load_of_an_instance_is_the_same_at_every_size_where_that_is_asked_for() -> None:
    assert [r.speed for r in small_report().results] == [1.0, 1.0, 1.0, 1.0]
    assert [r.speed for r in small_report(rate_for=2).results] == [0.5, 0.5, 1.0, 1.0]


def test_every_policy_is_played_at_every_size() -> None:
    assert [(r.policy, r.instances) for r in small_report().results] == [
        ("prompt-tree", 1),
        ("session", 1),
        ("prompt-tree", 2),
        ("session", 2),
    ]


def test_nothing_is_played_when_one_setting_cannot_be() -> None:
    played: list[object] = []
    with pytest.raises(ConfigError, match="not known"):
        simulate(TRACE, BASE, origin=HERE, policies=["session", "best"], sizes=[1], each=played.append)
    assert played == []


def test_a_written_report_reads_back_the_same(tmp_path: Path) -> None:
    report, cache = small_report(), cache_report(TRACE, policies=["lru"], capacities=[4, 9])
    write_json(report, tmp_path / "s.json")
    write_json(cache, tmp_path / "c.json")
    assert msgspec.json.decode((tmp_path / "s.json").read_bytes(), type=SimulationReport) == report
    assert msgspec.json.decode((tmp_path / "c.json").read_bytes(), type=CacheReport) == cache
    with pytest.raises(ConfigError, match="cannot write"):
        write_json(report, tmp_path / "none" / "s.json")


def test_figures_are_drawn_and_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    draw_simulation(small_report(), tmp_path / "s.svg")
    draw_cache(cache_report(TRACE, policies=["lru", "belady"], capacities=[4, 9]), tmp_path / "c.png")
    assert (tmp_path / "s.svg").read_bytes().startswith(b"<?xml")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ConfigError, match=r"name a \.png"):
        draw_simulation(small_report(), tmp_path / "s.txt.nothing")

"""The paper's evaluation in simulation, on a toy of its data."""

from pathlib import Path

import msgspec
import pytest

from memserve.bench.serve.sessions import Words
from memserve.bench.simulated.figures import draw_paper
from memserve.bench.simulated.paper import SYSTEMS, PaperPlan, play_paper, scaling
from memserve.bench.simulated.record import PaperReport, write_study
from memserve.simulator.profiles import load_profile
from memserve.simulator.report import Origin
from tests.bench.serve.test_workloads import write_react
from tests.fakes.model import TOKENIZER


@pytest.fixture
def plan(tmp_path: Path) -> PaperPlan:
    write_react(tmp_path)
    return PaperPlan(
        profile=load_profile("h800-llama2-13b-tp2"),
        data=tmp_path,
        words=Words(TOKENIZER),
        workloads=("react",),
        num_sessions=3,
        seeds=(0,),
        loads=(1.2,),
    )


def test_every_system_is_compared_with_pd_basic_at_its_rate_and_with_the_paper(plan: PaperPlan, tmp_path: Path) -> None:
    results = play_paper(plan)

    by_name = {row.system: row for row in results}
    assert list(by_name) == [system.name for system in SYSTEMS]
    assert len({row.rate for row in results}) == 1
    assert by_name["PD-Basic"].gains.ttft_avg == 0
    assert by_name["PD-Basic"].hit_ratio == 0 < by_name["PD-Caching-1"].hit_ratio
    assert by_name["PD-Caching-3"].gains.ttft_avg < 0
    assert [row.system for row in results if row.paper] == ["PD-Caching-1", "PD-Caching-2", "PD-Caching-3"]

    report = PaperReport(
        study="paper",
        origin=Origin(version="1", commit="c", started="now", machine="m", command="memserve bench"),
        profile=plan.profile.identity,
        profile_source=plan.profile.source,
        seeds=plan.seeds,
        scaling=scaling(plan),
        results=tuple(results),
    )
    write_study(report, tmp_path / "new" / "paper.json")
    draw_paper(report, tmp_path / "paper.svg")
    assert msgspec.json.decode((tmp_path / "new" / "paper.json").read_bytes(), type=PaperReport) == report
    assert (tmp_path / "paper.svg").read_bytes().startswith(b"<?xml")

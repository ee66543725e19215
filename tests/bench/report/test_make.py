"""The whole report from small files of results: what is there is shown, what is not is said."""

import re
from pathlib import Path

import msgspec
import pytest

from memserve.bench.evaluation.parts import parts_of
from memserve.bench.records import Machine, Row, make_report, timed_row
from memserve.bench.report.make import Made, make_page, sections
from memserve.bench.report.page import names
from memserve.bench.serve.record import ServeReport
from memserve.bench.simulated.paper import PAPER as PAPER_GAINS
from memserve.bench.simulated.record import (
    AgainstReport,
    AgainstResult,
    CostReport,
    CostResult,
    Gains,
    PaperReport,
    PaperResult,
    write_study,
)
from memserve.bench.study.record import Size
from memserve.bench.study.run import run_study
from memserve.core.enums import CachingMode
from memserve.core.errors import ConfigError
from memserve.scheduler.cost_model import ProfileIdentity
from memserve.simulator.report import Origin
from tests.bench.report.cells import cell, lines
from tests.bench.study.fake_gateway import FakeGateway

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "evaluation.md"
PAPER_RESULT = PaperResult(
    workload="react",
    load=2.0,
    system="PD-Caching-3",
    layout="2p2d",
    caching=CachingMode.RETURN,
    policy="prompt-tree",
    rate=1.0,
    requests=10,
    prompt_tokens_avg=1000.0,
    output_tokens_avg=10.0,
    ttft_avg_s=0.1,
    ttft_p99_s=0.2,
    jct_avg_s=1.0,
    jct_p99_s=2.0,
    hit_ratio=0.5,
    moved_bytes=0.0,
    gains=Gains(ttft_avg=0.0, ttft_p99=0.0, jct_avg=0.0, jct_p99=0.0),
    paper=None,
)

STUDY = {
    "origin": Origin(version="1", commit="abc", started="then", machine="a machine", command="memserve bench"),
    "profile": ProfileIdentity(model="m", engine="vllm", machine="g"),
    "profile_source": "A roofline.",
    "seeds": (0, 1, 2),
}


class Report:
    """Results and the page that is made of them."""

    def __init__(self, folder: Path) -> None:
        self.results = folder / "results"
        self.results.mkdir()
        self.out = folder / "out"
        self.said: list[str] = []

    def make(self) -> Made:
        return make_page(self.results, page=PAGE, out=self.out, say=self.said.append)

    def shown(self, name: str) -> str:
        text = (self.out / "evaluation.md").read_text()
        found = re.search(rf"<!-- results: {name} -->\n(.*?)<!-- end of results -->", text, re.DOTALL)
        assert found is not None
        return found[1]


@pytest.fixture
def report(tmp_path: Path) -> Report:
    return Report(tmp_path)


def test_the_page_has_a_place_for_every_section_and_the_evaluation_a_part_for_each() -> None:
    known = {section.name for section in sections()}
    assert set(names(PAGE.read_text())) == known
    for size in Size:
        assert {part.name for part in parts_of(size)} == {*known, "calibration"}


def test_what_has_no_results_names_the_command_that_makes_them(report: Report) -> None:
    made = report.make()
    assert (len(made.missing), made.filled, made.broken) == (len(sections()), (), ())
    assert "No results yet: `memserve bench study swap --json" in report.shown("study-swap")


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "is empty"), (b'{"bench": "study la', "is cut off"), (b'{"bench": 1}', "is not the file of a StudyReport")],
)
def test_a_file_that_is_not_what_it_should_be_is_named_and_the_rest_is_made(
    report: Report, content: bytes, words: str
) -> None:
    (report.results / "study-layers.json").write_bytes(content)
    (report.results / "serve-react.jsonl").write_bytes(lines(cell("basic", workload="react")))
    made = report.make()
    assert (made.broken, made.filled) == (("study-layers",), ("serve-react",))
    assert words in report.said[0]
    assert words in report.shown("study-layers")
    assert str(report.results) not in report.shown("study-layers")


async def test_a_study_is_shown_with_its_figure_its_numbers_and_what_made_it(report: Report) -> None:
    study = await run_study("layers", size=Size.QUICK, seed=5, say=report.said.append, served=FakeGateway().served)
    study.write(report.results / "study-layers.json")
    assert report.make().filled == ("study-layers",)
    shown = report.shown("study-layers")
    assert "![" in shown
    assert (report.out / "figures" / "evaluation" / "study-layers.svg").exists()
    assert "| prompts at once (requests) | by-layer | by-request |" in shown
    assert all(what in shown for what in ("Made by `memserve", "seed 5", f"commit {study.commit}", "quick size"))


def test_serving_is_shown_over_the_rate_and_beside_the_papers_gains(report: Report) -> None:
    cells = [
        cell(system, rate=rate, repetition=repetition, ttft_avg_s=ttft * repetition)
        for system, ttft in (("basic", 2.0), ("return", 0.5))
        for rate in (0.1, 0.2)
        for repetition in (1, 2, 3)
    ]
    (report.results / "serve-sharegpt.jsonl").write_bytes(lines(*cells))
    report.make()
    shown = report.shown("serve-sharegpt")
    assert "| return | 0.2 | 3 | 1 (0.5 to 1.5) |" in shown
    assert "| return | +0.0 % | +0.0 % | -75.0 % | 6 |" in shown
    assert "| *the paper's, with caching* | -17.0 % | -29.0 % | -58.0 % |  |" in shown
    assert "An unfinished run: 12 cells so far" in shown
    drawn = (report.out / "figures" / "evaluation" / "serve-sharegpt.svg").read_text()
    assert all(label in drawn for label in ("rate (sessions/s)", "TTFT average (s)", "JCT P99 (s)"))


def test_cells_that_a_run_took_over_from_before_are_named_with_their_commit(report: Report) -> None:
    cells = (cell("basic", commit="old"), cell("return", commit="new"))
    (report.results / "serve-sharegpt.jsonl").write_bytes(lines(*cells))
    whole = ServeReport(
        bench="serve",
        started="2026-01-02T00:00:00+00:00",
        machine=Machine(processor="a processor", num_cores=2, kernel="", python=""),
        missing=(),
        seed=0,
        commit="new",
        model="m",
        scaling="as they are",
        command="memserve bench serve",
        results=cells,
    )
    whole.write(report.results / "serve-sharegpt.json")
    report.make()
    assert "but for basic at commit old (2026-01-01).*" in report.shown("serve-sharegpt")


def test_a_saturated_cell_is_marked_and_not_drawn(report: Report) -> None:
    (report.results / "serve-loogle.jsonl").write_bytes(
        lines(cell("basic", workload="loogle", rate=0.7, is_saturated=True), cell("return", workload="loogle"))
    )
    report.make()
    assert "0.7 (saturated)" in report.shown("serve-loogle")
    assert ">0.7<" not in (report.out / "figures" / "evaluation" / "serve-loogle.svg").read_text()


def test_lines_of_a_run_that_was_cut_off_are_used_up_to_the_cut_and_none_at_all_is_said(report: Report) -> None:
    whole = lines(cell("basic"))
    (report.results / "serve-sharegpt.jsonl").write_bytes(whole + whole[:40])
    (report.results / "serve-loogle.jsonl").write_bytes(whole[:40])
    assert report.make().broken == ("serve-loogle",)
    assert "holds no finished cell" in report.shown("serve-loogle")


def test_operations_are_shown_by_system(report: Report) -> None:
    base = {"version": "1", "operation": "match", "tree": "deep", "input": "int32"}
    rows = [
        timed_row([1000], Row(system=system, blocks=blocks, **base))
        for system in ("memserve", "vllm")
        for blocks in (32, 512)
    ]
    make_report("index", results=rows, missing=[]).write(report.results / "index.json")
    pool = [Row(system="memserve", version="1", operation="alloc_free", path="dram", blocks=64, p50_us=6.4)]
    make_report("pool", results=pool, missing=[]).write(report.results / "pool.json")
    assert report.make().filled == ("index", "pool")
    assert "| match 512 | 1 | 1 |" in report.shown("index")
    assert "0.100" in report.shown("pool")


def test_the_papers_scale_is_shown_beside_the_papers_own_gains(report: Report) -> None:
    gains = Gains(ttft_avg=-0.5, ttft_p99=-0.4, jct_avg=-0.25, jct_p99=-0.125)
    results = (
        msgspec.structs.replace(PAPER_RESULT, gains=gains, paper=PAPER_GAINS["react"]),
        msgspec.structs.replace(PAPER_RESULT, system="colocated", gains=gains),
    )
    paper = PaperReport(study="paper", scaling={"react": "as they are"}, results=results, **STUDY)
    write_study(paper, report.results / "simulation-paper.json")
    assert report.make().filled == ("simulation-paper",)
    shown = report.shown("simulation-paper")
    assert "-50.0% (-78.5%)" in shown
    assert "| react, 2 times | colocated |" in shown
    assert "Made by `memserve bench`, seeds 0 to 2, commit abc" in shown
    assert (report.out / "figures" / "evaluation" / "simulation-paper.svg").exists()


def test_the_simulator_is_shown_beside_a_real_run_and_in_money(report: Report) -> None:
    cell = {"system": "return", "workload": "react", "rate": 0.1, "repetition": 1, "requests": 9}
    times = {
        f"{simulated}{what}_{which}_s": 2.0
        for simulated in ("", "simulated_")
        for what in ("ttft", "jct")
        for which in ("p50", "avg")
    }
    beside = AgainstResult(**cell, **(times | {"simulated_ttft_p50_s": 1.5}))
    against = AgainstReport(
        study="against", runs=("serve-react.json",), left_out=("vllm-nixl",), results=(beside,), **STUDY
    )
    write_study(against, report.results / "simulation-against.json")
    kind = {"policy": "prompt-tree", "caching": CachingMode.RETURN, "instances": 7}
    figures = {"ttft_avg_s": 0.5, "ttft_p99_s": 1.0, "jct_avg_s": 2.0, "utilisation": 0.9, "hit_ratio": 0.4}
    money = CostResult(**kind, **figures, hours=1.0, tokens=10, dollars_per_million_tokens=0.125)
    cost = CostReport(
        study="cost", trace="t", requests=10, ttft_s=1.0, price_per_gpu_hour=2.5, results=(money,), **STUDY
    )
    write_study(cost, report.results / "simulation-cost.json")
    assert report.make().filled == ("simulation-cost", "simulation-against")
    assert "| return, react, 0.1, repetition 1 | 9 | 2.00 | 1.50 | -25% |" in report.shown("simulation-against")
    assert "Left out: vllm-nixl." in report.shown("simulation-against")
    assert "| caching, prompt-tree | 7 | 0.50 | 2.00 | 90% | 40% | 0.125 |" in report.shown("simulation-cost")


def test_a_folder_or_page_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no folder"):
        make_page(tmp_path / "none", page=PAGE, out=tmp_path, say=print)
    with pytest.raises(ConfigError, match="cannot read the page"):
        make_page(tmp_path, page=tmp_path / "none.md", out=tmp_path, say=print)

"""The results as lines: medians, spread, and what is not averaged over."""

from pathlib import Path

import msgspec

from memserve.bench.records import Missing, now, this_machine
from memserve.bench.serve.record import ServeReport, ServeResult, read_results, results_file
from memserve.bench.serve.table import as_serve_lines
from tests.bench.serve.stage import Theatre, make_plan
from tests.fakes.engine import FakeEngine


async def one_result(folder: Path) -> ServeResult:
    await Theatre({"vllm": FakeEngine("a")}).play(make_plan("vllm"), folder / "run.json")
    return read_results(results_file(folder / "run.json"))[0]


def lines_of(*results: ServeResult) -> list[str]:
    missing = (Missing(system="vllm-nixl", reason="no nixl here"),)
    report = ServeReport(
        bench="serve", started=now(), machine=this_machine(), missing=missing, seed=0, commit="abc", model="tiny",
        scaling="as they are", command="memserve bench serve", results=results,
    )  # fmt: skip
    return list(as_serve_lines(report))


async def test_a_line_shows_the_median_and_the_spread(tmp_path: Path) -> None:
    result = await one_result(tmp_path)
    several = [msgspec.structs.replace(result, repetition=n, ttft_avg_s=float(n)) for n in (1, 2, 9)]

    text = "\n".join(lines_of(*several))

    assert "2.00 (1.00-9.00)" in text
    assert "12 of 12" in text
    assert "lengths: as they are" in text
    assert "missing: vllm-nixl: no nixl here" in text


async def test_saturated_repetitions_are_not_averaged_over(tmp_path: Path) -> None:
    result = await one_result(tmp_path)
    fine = msgspec.structs.replace(result, ttft_avg_s=1.0)
    saturated = msgspec.structs.replace(result, repetition=2, ttft_avg_s=100.0, is_saturated=True)

    assert any(line.startswith("vllm (1 of 2)  1.00 ") for line in lines_of(fine, saturated))
    assert any("saturated: the system does not sustain this rate" in line for line in lines_of(saturated))

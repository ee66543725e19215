"""What a run leaves behind."""

import json
from pathlib import Path

import pytest

from memserve.bench.figures import draw
from memserve.bench.records import Missing, Row, make_report, timed_row
from memserve.bench.table import as_lines
from memserve.core.errors import ConfigError

MATCH = Row(system="memserve", version="1", operation="match", tree="deep", input="int32", blocks=32)


def test_times_become_quantiles_in_microseconds() -> None:
    row = timed_row([1000, 2000, 3000, 4000, 5000], MATCH)
    assert (row.p50_us, row.p25_us, row.p75_us, row.count) == (3.0, 2.0, 4.0, 5)


def test_a_rate_is_that_of_the_median() -> None:
    assert timed_row([2_000_000], MATCH, num_bytes=8_000_000).gb_per_s == 4.0


def test_the_file_holds_only_what_applies(tmp_path: Path) -> None:
    make_report("index", results=[MATCH], missing=[]).write(tmp_path / "deep" / "index.json")
    (row,) = json.loads((tmp_path / "deep" / "index.json").read_text())["results"]
    assert set(row) == {"system", "version", "operation", "tree", "input", "blocks"}


def test_a_missing_system_stands_in_the_file_and_in_the_table(tmp_path: Path) -> None:
    report = make_report("index", results=[], missing=[Missing(system="dynamo", reason="not built")])
    report.write(tmp_path / "index.json")
    assert json.loads((tmp_path / "index.json").read_text())["missing"] == [{"system": "dynamo", "reason": "not built"}]
    assert "missing: dynamo: not built" in list(as_lines(report))


def test_a_figure_is_drawn_on_a_transparent_ground(tmp_path: Path) -> None:
    draw(make_report("index", results=[timed_row([1000], MATCH)], missing=[]), tmp_path / "index.svg")
    assert "<svg" in (tmp_path / "index.svg").read_text()


def test_there_is_no_figure_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to draw"):
        draw(make_report("index", results=[], missing=[]), tmp_path / "index.svg")

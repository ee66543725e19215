"""A real run's files beside the simulator: cells are paired with counterparts, requests are played when they were."""

from pathlib import Path

import msgspec
import pytest

from memserve.bench.serve.record import RequestLine, ServeResult
from memserve.bench.serve.sessions import Words
from memserve.bench.simulated.against import AgainstPlan, counterpart, play_against
from memserve.core.enums import CachingMode
from memserve.core.errors import ConfigError
from memserve.simulator.profiles import load_profile
from tests.bench.serve.test_workloads import write_react
from tests.fakes.model import TOKENIZER

CELL = {"workload": "react", "rate": 0.5, "repetition": 1}
_EMPTY = {int: 0, float: 0.0, str: "", bool: False}


def write_run(folder: Path, *systems: str) -> Path:
    """One session of two turns on each system, each turn with a second to the first token and two to the last."""
    results, lines = [], []
    for system in systems:
        blank = {f.name: _EMPTY.get(f.type, 0) for f in msgspec.structs.fields(ServeResult)}
        results.append(blank | CELL | {"system": system, "sessions": 1})
        for turn in range(2):
            blank = {f.name: _EMPTY.get(f.type, 0) for f in msgspec.structs.fields(RequestLine)}
            times = {"turn": turn, "arrival_s": 60.0 * turn, "ttft_s": 1.0, "jct_s": 2.0}
            lines.append(blank | CELL | {"system": system} | times)
    for name, rows in (("run.jsonl", results), ("run.requests.jsonl", lines)):
        (folder / name).write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    return folder / "run.json"


def plan(folder: Path, run: Path) -> AgainstPlan:
    write_react(folder)
    return AgainstPlan(
        runs=(run,), profile=load_profile("cpu-smollm2-135m"), data=folder, words=Words(TOKENIZER), context=8192
    )


def test_cells_are_played_again_and_systems_without_a_counterpart_are_named(tmp_path: Path) -> None:
    results, left_out = play_against(plan(tmp_path, write_run(tmp_path, "colocated", "both-by-layer", "vllm-apc")))

    assert [row.system for row in results] == ["colocated", "both-by-layer"]
    assert left_out == ["vllm-apc"]
    for row in results:
        assert (row.requests, row.ttft_p50_s, row.jct_p50_s) == (2, 1.0, 2.0)
        assert 0 < row.simulated_ttft_p50_s < row.simulated_jct_p50_s
        assert row.ttft_error == pytest.approx(row.simulated_ttft_p50_s - 1.0)


def test_how_kv_is_cut_makes_no_other_counterpart() -> None:
    split = counterpart("prefill-by-request")

    assert split is not None
    assert (split.layout, split.caching) == ("1p1d", CachingMode.PREFILL)
    assert counterpart("vllm-nixl") is None


def test_a_run_with_nothing_to_compare_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no finished cell"):
        play_against(plan(tmp_path, write_run(tmp_path, "vllm-apc")))

"""`memserve simulate` and `simulate-cache` as typed: what they print, write and refuse."""

from pathlib import Path

import msgspec
import pytest

from memserve.cli import main

LINES = "".join(
    f'{{"timestamp": {number * 500}, "input_length": 1024, "output_length": 5, "hash_ids": [0, {1 + number % 3}]}}\n'
    for number in range(12)
)
FIELDS = {
    "policy",
    "instances",
    "hit_ratio",
    "ideal_hit_ratio",
    "ttft_avg_s",
    "ttft_p99_s",
    "jct_avg_s",
    "jct_p99_s",
    "load_max_over_mean",
    "decide_p50_us",
}


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    file = tmp_path / "small.jsonl"
    file.write_text(LINES)
    return file


def exit_status(*typed: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(typed)
    return int(ended.value.code or 0)


def test_a_simulation_writes_a_result_per_policy_and_size(trace: Path, tmp_path: Path) -> None:
    written = tmp_path / "out.json"
    typed = ("simulate", str(trace), "--instances", "1,2", "--policy", "prompt-tree,session", "--json", str(written))
    assert exit_status(*typed) == 0
    results = msgspec.json.decode(written.read_bytes())["results"]
    assert [(r["policy"], r["instances"]) for r in results] == [
        ("prompt-tree", 1),
        ("session", 1),
        ("prompt-tree", 2),
        ("session", 2),
    ]
    assert results[0].keys() >= FIELDS


def test_a_replay_prints_every_policy_beside_the_optimum(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status("simulate-cache", str(trace), "--capacities", "2,4") == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("lru", "lfu", "fifo", "adaptive", "belady", "unbounded"))


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (("--instances", "4,x"), "--instances"),
        (("--instances", "0"), "at least 1"),
        (("--policy", ""), "--policy"),
        (("--policy", "fastest"), "fastest"),
        (("--profile", "nowhere.json"), "nowhere.json"),
        (("--eviction", "random"), "random"),
    ],
)
def test_a_wrong_option_is_named(
    trace: Path, capsys: pytest.CaptureFixture[str], typed: tuple[str, ...], said: str
) -> None:
    assert exit_status("simulate", str(trace), *typed) == 2
    assert said in capsys.readouterr().err

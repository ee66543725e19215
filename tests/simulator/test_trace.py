"""Reading recorded workloads: what they say, and what is refused."""

from pathlib import Path

import pytest
from traces import MOONCAKE, trace_of

from memserve.core.errors import ConfigError
from memserve.simulator.trace import ideal_hit_ratio, load_trace, name_sessions

LINE = '{"timestamp": 1500, "input_length": 700, "output_length": 5, "hash_ids": [4, 9]}\n'
AZURE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.6805900,600,9\n"
)


def written(folder: Path, text: str, name: str = "t.jsonl") -> Path:
    file = folder / name
    file.write_text(text)
    return file


@pytest.mark.parametrize(("name", "ideal"), [("conversation_trace", 0.366), ("mooncake_arxiv_trace_1000", 0.380)])
def test_the_endless_cache_hits_the_published_share_of_blocks(name: str, ideal: float) -> None:
    file = MOONCAKE / f"{name}.jsonl"
    if not file.exists():
        pytest.skip("the recorded traces are not on this machine")
    assert ideal_hit_ratio(load_trace(file)) == pytest.approx(ideal, abs=0.0005)


def test_only_leading_blocks_are_ideal_hits() -> None:
    assert ideal_hit_ratio(trace_of([(1, 2), (3, 2), (1, 2, 4, 5)])) == 2 / 8


def test_times_count_from_the_first_request_in_order_of_time(tmp_path: Path) -> None:
    trace = load_trace(written(tmp_path, LINE.replace("1500", "4000") + LINE))
    assert [request.at_s for request in trace.requests] == [0.0, 2.5]


def test_only_the_first_requests_are_read_when_asked(tmp_path: Path) -> None:
    assert len(load_trace(written(tmp_path, LINE * 5), max_requests=2).requests) == 2


def test_lengths_alone_share_no_block(tmp_path: Path) -> None:
    trace = load_trace(written(tmp_path, AZURE, "a.csv"))
    assert [request.blocks for request in trace.requests] == [(0,), (1, 2)]
    assert trace.requests[1].at_s == pytest.approx(4.0)
    assert ideal_hit_ratio(trace) == 0


def test_a_session_goes_on_where_an_earlier_prompt_ended_and_a_system_prompt_makes_none() -> None:
    sessions = name_sessions([(0, 1, 2), (0, 5, 6), (0, 1, 3, 4), (0, 5, 7), (0, 9)])
    assert sessions[2] == sessions[0] != sessions[1] == sessions[3] != sessions[4]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no requests"),
        (LINE + LINE[:30], "line 2"),
        (LINE.replace("[4, 9]", "[4]"), "1 blocks of 512 instead of 2"),
        (LINE.replace("[4, 9]", "[4, 4294967296]"), "outside"),
        (LINE.replace("700", "0"), "0 prompt"),
        ('{"prompt": "hello"}\n', "not a request of Mooncake"),
    ],
)
def test_a_broken_trace_is_refused_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_trace(written(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "said"), [("a,b\n1,2\n", "header"), (AZURE + "yesterday,1,2\n", "line 4"), (AZURE[:90], "line 3")]
)
def test_a_broken_table_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_trace(written(tmp_path, text, "a.csv"))


def test_a_missing_file_another_kind_and_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load_trace(tmp_path / "none.jsonl")
    with pytest.raises(ConfigError, match="no trace"):
        load_trace(tmp_path / "t.parquet")
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_trace(tmp_path / "b.jsonl")

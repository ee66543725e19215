"""A whole run against engines that compute nothing: order, records, failures, going on after an interruption."""

from pathlib import Path

import pytest

from memserve.bench.serve.journal import Journal, discard
from memserve.bench.serve.record import read_requests, read_results, requests_file, results_file
from memserve.core.errors import ConfigError
from tests.bench.serve.stage import Theatre, make_plan
from tests.fakes.engine import FakeEngine, Fault


@pytest.fixture
def json(tmp_path: Path) -> Path:
    return tmp_path / "run.json"


async def test_every_cell_leaves_a_line_and_one_for_each_request(json: Path) -> None:
    theatre = Theatre({"vllm": FakeEngine("a")})

    missing, _ = await theatre.play(make_plan("vllm", rates=(500.0, 1e3)), json)

    results, requests = read_results(results_file(json)), read_requests(requests_file(json))
    assert not missing
    assert [(r.rate, r.requests, r.output_tokens, r.failed) for r in results] == [(500.0, 4, 16, 0), (1e3, 4, 16, 0)]
    assert [(r.session, r.turn) for r in requests[:4]] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert all(0 < r.ttft_s <= r.jct_s and r.cached_tokens == 8 for r in requests)
    assert results[0].hit_ratio == pytest.approx(4 * 8 / results[0].prompt_tokens, abs=1e-4)


async def test_a_turn_is_sent_after_the_answer_before_it_and_carries_it(json: Path) -> None:
    engine = FakeEngine("a")

    await Theatre({"vllm": engine}).play(make_plan("vllm"), json)

    first, second = (s.body for s in engine.seen if s.headers["x-session-id"] == "vllm-1000-1-0")
    assert first["prompt"] == "(1000) hello?"
    assert second["prompt"].startswith("(1000) hello?Paged memory moves")
    assert second["prompt"].endswith("and then?")
    assert (second["max_tokens"], second["ignore_eos"], second["temperature"]) == (5, True, 0)


async def test_repetitions_alternate_between_systems(json: Path) -> None:
    theatre = Theatre({"vllm": FakeEngine("a"), "auto": FakeEngine("b")})

    await theatre.play(make_plan("vllm,auto", repetitions=2), json)

    assert theatre.started == ["vllm-1", "auto-1", "vllm-2", "auto-2"]


async def test_answers_are_compared_with_the_first_system(json: Path) -> None:
    theatre = Theatre({"vllm": FakeEngine("a"), "auto": FakeEngine("b")})
    await theatre.play(make_plan("vllm,auto"), json)
    lines = requests_file(json).read_bytes()
    requests_file(json).write_bytes(lines.replace(read_requests(requests_file(json))[0].answer.encode(), b"other"))

    await Theatre({"vllm-apc": FakeEngine("c")}).play(make_plan("vllm,auto,vllm-apc"), json)

    first, same, different = read_results(results_file(json))
    assert (first.reference, first.num_identical, first.tokens_identical) == ("vllm", 4, True)
    assert (same.reference, same.num_identical, same.tokens_identical) == ("vllm", 4, True)
    assert (different.reference, different.num_identical, different.tokens_identical) == ("vllm", 2, False)


async def test_a_system_that_does_not_start_is_reported_and_the_rest_goes_on(json: Path) -> None:
    theatre = Theatre({"auto": FakeEngine("b")})

    missing, journal = await theatre.play(make_plan("vllm,auto", repetitions=2), json)

    assert [(m.system, m.reason) for m in missing] == [("vllm", "it has no engine")]
    assert theatre.started == ["vllm-1", "auto-1", "auto-2"]
    assert [result.system for result in journal.results] == ["auto", "auto"]


async def test_a_request_that_fails_ends_its_session_and_is_counted(json: Path) -> None:
    engine = FakeEngine("a")
    engine.faults_to_come = [*[Fault.NONE] * 4, Fault.ANSWER_500, *[Fault.NONE] * 9]
    theatre = Theatre({"vllm": engine})

    await theatre.play(make_plan("vllm"), json)

    (result,) = read_results(results_file(json))
    assert (result.requests, result.failed) == (2, 1)
    assert not result.is_saturated
    assert not result.tokens_identical
    assert any("answered 500" in step for step in theatre.diary.steps)


async def test_a_rate_at_which_an_answer_comes_too_late_is_saturated(json: Path) -> None:
    engine = FakeEngine("a")
    engine.faults_to_come = [*[Fault.NONE] * 4, Fault.STALL, *[Fault.NONE] * 9]
    theatre = Theatre({"vllm": engine})

    await theatre.play(make_plan("vllm", deadline_s=1.0), json)

    (result,) = read_results(results_file(json))
    assert result.failed
    assert result.is_saturated
    assert any("no whole answer after" in step for step in theatre.diary.steps)


async def test_an_answer_that_is_too_short_counts_as_failed(json: Path) -> None:
    engine = FakeEngine("a")
    engine.faults_to_come = [*[Fault.NONE] * 4, Fault.END_EARLY, *[Fault.NONE] * 9]
    theatre = Theatre({"vllm": engine})

    await theatre.play(make_plan("vllm"), json)

    assert any("answered with 2 of 3 tokens" in step for step in theatre.diary.steps)


async def test_an_interrupted_run_plays_only_what_is_not_done(json: Path) -> None:
    await Theatre({"vllm": FakeEngine("a")}).play(make_plan("vllm"), json)
    with results_file(json).open("ab") as file:
        file.write(b'{"system": "auto", "work')
    with requests_file(json).open("ab") as file:
        file.write(requests_file(json).read_bytes().splitlines()[0].replace(b'"vllm"', b'"auto"') + b"\n")
    theatre = Theatre({"vllm": FakeEngine("a"), "auto": FakeEngine("b")})

    await theatre.play(make_plan("vllm,auto", repetitions=2), json)

    assert theatre.started == ["auto-1", "vllm-2", "auto-2"]
    assert len(read_results(results_file(json))) == 4
    assert len(read_requests(requests_file(json))) == 16


async def test_lines_of_another_run_are_refused_until_they_are_discarded(json: Path) -> None:
    await Theatre({"vllm": FakeEngine("a")}).play(make_plan("vllm"), json)

    with pytest.raises(ConfigError, match=r"holds another run \(test, 2 sessions, seed 0.*--discard"):
        Journal(json, run="other")
    discard(json)
    assert Journal(json, run="other").results == []


def test_lines_of_another_form_are_named(json: Path) -> None:
    results_file(json).write_text('{"what": 1}\n')

    with pytest.raises(ConfigError, match=r"line 1 of .*run\.jsonl is not a ServeResult"):
        Journal(json, run="r")


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ConfigError, match="name another --json"):
        Journal(tmp_path / "file" / "run.json", run="r")

"""Parts as real processes: what has a result is left alone, what fails is said, and the rest goes on."""

import sys
from pathlib import Path

import pytest

from memserve.bench.evaluation.parts import Part
from memserve.bench.evaluation.run import Pace, run_parts

PROGRAM = (sys.executable, "-c")
"""A part's first argument is then a program of its own; its result file is the last one."""
WRITES = "import pathlib, sys; pathlib.Path(sys.argv[-1]).write_text('made')"


def part(name: str, program: str, *, deadline_s: float = 60.0) -> Part:
    return Part(name=name, arguments=(program,), deadline_s=deadline_s)


def test_a_part_that_fails_is_said_with_its_last_words_and_the_rest_goes_on(tmp_path: Path) -> None:
    said: list[str] = []
    parts = [part("bad", "raise SystemExit('no such model')"), part("good", WRITES)]
    bad, good = run_parts(parts, results=tmp_path, say=said.append, program=PROGRAM)
    assert "status 1 and no result: no such model" in bad.problem
    assert str(tmp_path / "logs" / "bad.log") in bad.problem
    assert (good.problem, (tmp_path / "good.json").read_text()) == ("", "made")
    assert [line.split()[0] for line in said] == ["[1/2]", "[1/2]", "[2/2]", "[2/2]"]


def test_a_part_whose_result_is_there_is_not_made_again(tmp_path: Path) -> None:
    (tmp_path / "good.json").write_text("kept")
    (outcome,) = run_parts([part("good", WRITES)], results=tmp_path, say=lambda _: None, program=PROGRAM)
    assert (outcome.problem, (tmp_path / "good.json").read_text()) == ("", "kept")


@pytest.mark.parametrize("ends", ["", "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); "])
def test_a_part_past_its_deadline_is_stopped(tmp_path: Path, ends: str) -> None:
    slow = part("slow", f"{ends}import time; time.sleep(600)", deadline_s=0.5)
    (outcome,) = run_parts([slow], results=tmp_path, say=lambda _: None, program=PROGRAM, pace=Pace(stop_s=0.5))
    assert "stopped after its deadline" in outcome.problem


def test_a_result_counts_though_its_command_ended_with_an_error(tmp_path: Path) -> None:
    program = f"{WRITES}; raise SystemExit(1)"
    (outcome,) = run_parts([part("odd", program)], results=tmp_path, say=lambda _: None, program=PROGRAM)
    assert outcome.problem == ""


def test_whoever_waits_for_a_long_part_hears_what_it_said_last(tmp_path: Path) -> None:
    said: list[str] = []
    slow = part("slow", "import time; print('round 3 of 5', flush=True); time.sleep(600)", deadline_s=10.0)

    def say(line: str) -> None:
        said.append(line)
        if line.endswith("round 3 of 5"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_parts([slow], results=tmp_path, say=say, program=PROGRAM, pace=Pace(tell_s=0.1, stop_s=0.5))
    assert said[-1] == "[1/1] slow: round 3 of 5"

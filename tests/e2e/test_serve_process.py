"""`memserve serve` as a process: what it says when it cannot start, and what it leaves behind."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.served import serve

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where it lies on Linux

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]


def test_an_engine_that_cannot_start_is_reported_by_its_own_reason(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "memserve", "serve", "--colocated", "1", "--port", "0", "--", "--no-such-option"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
    )
    assert run.returncode == 2
    assert "no-such-option" in run.stderr
    assert "Traceback" not in run.stderr


def test_ctrl_c_stops_everything_within_ten_seconds_and_leaves_nothing(tmp_path: Path) -> None:
    before, files_before = processes_with("--served-model-name"), set(SHARED_MEMORY.iterdir())
    served = serve("--colocated", "1", log=tmp_path / "serve.log").wait_ready()
    arenas = served.arenas()
    assert all(arena.exists() for arena in arenas)
    assert served.close() < 10.0
    assert served.process.returncode == 0
    assert not set(SHARED_MEMORY.iterdir()) - files_before  # neither ours nor vLLM's
    deadline = time.monotonic() + 5.0
    while processes_with("--served-model-name") != before:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def processes_with(word: str) -> set[str]:
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if word.encode() in path.read_bytes():
                found.add(path.parent.name)
        except OSError:
            continue  # gone between the listing and the reading
    return found

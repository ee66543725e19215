"""The short version of `make soak`."""

import subprocess
import sys


def test_random_calls_and_kills_leave_every_block_accounted_for() -> None:
    command = [sys.executable, "-m", "tests.soak.run", "--seconds", "10", "--processes", "3", "--kill-every", "3"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=115, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.splitlines()[-1].endswith("every block accounted for, /dev/shm clean")

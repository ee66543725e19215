"""A real cluster changed while requests go on: one joins, one changes its role, one is drained, and nobody notices."""

import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.served import START_S, Served, serve

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

PROMPTS = tuple([7 * number + position % 50 for position in range(200)] for number in range(1, 4))
NUM_TOKENS = 6


def tokens(served: Served, prompt: list[int]) -> list[int]:
    return list(served.complete(prompt, num_tokens=NUM_TOKENS)["choices"][0]["token_ids"])


class Traffic:
    """One request after the other; each must give what the first of its prompt gave."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._expected = [tokens(served, prompt) for prompt in PROMPTS]
        self._going = True
        self.faults: list[str] = []
        self.num_right = 0

    def run(self) -> None:
        number = 0
        while self._going:
            number = (number + 1) % len(PROMPTS)
            try:
                found = tokens(self._served, PROMPTS[number])
            except Exception as error:
                self.faults.append(f"{type(error).__name__}: {error}")
                continue
            if found == self._expected[number]:
                self.num_right += 1
            else:
                self.faults.append(f"prompt {number}: {found} instead of {self._expected[number]}")

    @contextmanager
    def going_on(self) -> Iterator["Traffic"]:
        thread = threading.Thread(target=self.run)
        thread.start()
        try:
            yield self
        finally:
            self._going = False
            thread.join()


def memserve(served: Served, *arguments: str) -> str:
    """A command from another shell; its last line."""
    run = subprocess.run(
        [sys.executable, "-m", "memserve", *arguments, "--url", served.url],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout.splitlines()[-1]


def roles(served: Served) -> dict[str, str]:
    """Of the active instances."""
    return {i["peer"]["instance"]: i["role"] for i in served.cluster()["instances"] if i["state"] == "active"}


def until_active(served: Served, name: str) -> None:
    deadline = time.monotonic() + START_S
    while name not in roles(served):
        assert time.monotonic() < deadline, served.cluster()
        time.sleep(0.5)


@contextmanager
def joined(served: Served, *arguments: str, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """`memserve instance --join` from another shell."""
    command = [sys.executable, "-m", "memserve", "instance", "--join", served.url, *arguments]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(30)


def test_an_instance_joins_one_changes_its_role_one_is_drained_and_every_answer_stays_the_same(tmp_path: Path) -> None:
    served = serve("--dram", "256MiB", "--", "--max-model-len", "2048", log=tmp_path / "serve.log")
    log = tmp_path / "extra.log"
    try:
        served.wait_ready()
        with (
            Traffic(served).going_on() as traffic,
            joined(served, "--role", "decode", "--name", "extra", log=log) as extra,
        ):
            until_active(served, "extra")
            assert "was decode, is prefill" in memserve(served, "role", "decode-0", "prefill")
            assert roles(served) == {"prefill-0": "prefill", "decode-0": "prefill", "extra": "decode"}
            before = traffic.num_right
            while traffic.num_right < before + 4 and not traffic.faults:
                time.sleep(0.1)
            memserve(served, "role", "decode-0", "decode")
            drained = memserve(served, "drain", "decode-0")
            handed_on = re.search(r"handed on to extra: (\d+) of (\d+) prompts, (\d+) tokens", drained)
            assert handed_on is not None, drained
            assert handed_on[1] == handed_on[2]
            assert roles(served) == {"prefill-0": "prefill", "extra": "decode"}
            before = traffic.num_right
            while traffic.num_right < before + 4 and not traffic.faults:
                time.sleep(0.1)
            assert extra.poll() is None
        assert traffic.faults == []
        assert traffic.num_right > 8
        assert "extra is ready: " in log.read_text()
    finally:
        served.close()

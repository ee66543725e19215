"""Instances that joined a cluster and outlive its gateway, and traffic that must not notice what becomes of them."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.e2e.served import START_S, Served, free_port, serve

NUM_TOKENS = 6


class LastingCluster:
    """A gateway without instances of its own, at an address that stays, and `memserve instance --join` beside it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self._manager = f"127.0.0.1:{free_port()}"
        self._num_gateways = 0
        self._instances: list[subprocess.Popen[bytes]] = []
        self.served = self.start_gateway()

    def start_gateway(self, *arguments: str) -> Served:
        """The next one at the address; the one before must be gone."""
        self._num_gateways += 1
        self.served = serve(
            *("--prefill", "0", "--decode", "0", "--name", f"lasting-{self._port}", "--manager", self._manager),
            *("--dram", "256MiB", *arguments, "--", "--max-model-len", "2048"),
            log=self._folder / f"gateway-{self._num_gateways}.log",
            port=self._port,
        )
        return self.served

    def join(self, name: str, role: str) -> None:
        """From another shell, once the gateway listens."""
        self.wait(lambda: "waiting for instances" in self.served.text(), "the gateway waits for instances")
        command = [sys.executable, "-m", "memserve", "instance", "--join", f"tcp://{self._manager}"]
        with self.log(name).open("wb") as output:
            self._instances.append(
                subprocess.Popen([*command, "--name", name, "--role", role], stdout=output, stderr=subprocess.STDOUT)
            )

    def log(self, name: str) -> Path:
        """What `memserve instance` printed."""
        return self._folder / f"{name}.log"

    def roles(self) -> dict[str, str]:
        """Of the active instances."""
        return {i["peer"]["instance"]: i["role"] for i in self.served.cluster()["instances"] if i["state"] == "active"}

    def wait_roles(self, roles: dict[str, str]) -> None:
        self.wait(lambda: self.roles() == roles, f"{roles} serve")

    def wait(self, holds: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + START_S
        while not holds():
            assert time.monotonic() < deadline, f"not within {START_S:g} s: {what}: {self.served.text()[-2000:]}"
            time.sleep(0.2)

    def command(self, *arguments: str) -> str:
        """What a command from another shell prints."""
        run = subprocess.run(
            [sys.executable, "-m", "memserve", *arguments, "--url", self.served.url],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert run.returncode == 0, run.stdout + run.stderr
        return run.stdout

    def __enter__(self) -> "LastingCluster":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._instances:
            process.terminate()
        for process in self._instances:
            process.wait(30)
        self.served.close()


class Traffic:
    """One request after the other; each must give the tokens that are expected of its prompt."""

    def __init__(self, served: Served, expected: Sequence[tuple[list[int], list[int]]]) -> None:
        """`expected`: prompts, each with the tokens of its answer."""
        self._served = served
        self._expected = expected
        self._going = True
        self.faults: list[str] = []
        self.num_right = 0

    def _run(self) -> None:
        number = 0
        while self._going:
            number += 1
            prompt, expected = self._expected[number % len(self._expected)]
            try:
                found = tokens(self._served, prompt)
            except Exception as error:
                self.faults.append(f"{type(error).__name__}: {error}")
                continue
            if found == expected:
                self.num_right += 1
            else:
                self.faults.append(f"prompt {number}: {found} instead of {expected}")

    def more(self, count: int = 4) -> None:
        """Until so many more were answered, or one was not."""
        enough = self.num_right + count
        while self.num_right < enough and not self.faults:
            time.sleep(0.1)

    @contextmanager
    def going_on(self) -> Iterator["Traffic"]:
        """All of it was answered rightly, if the block ends well."""
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield self
        finally:
            self._going = False
            thread.join()
        assert self.faults == []
        assert self.num_right > 0


def tokens(served: Served, prompt: list[int], **more: Any) -> list[int]:
    return list(served.complete(prompt, num_tokens=NUM_TOKENS, **more)["choices"][0]["token_ids"])

"""What every measured path between two processes answers: open a shape, then move its blocks again and again.

The child is the sender and starts the receiver itself. Sources are taken in turn from several regions, so
that they have left the caches; the place where they arrive is always the same.
"""

import subprocess
import sys
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any, Protocol

from memserve.bench.systems.channel import System, serve

SOURCE_BYTES = 256 << 20
"""At least two regions, and as many as fit here."""


def num_regions(block_bytes: int, num_blocks: int) -> int:
    """How many different sources there are."""
    return max(2, SOURCE_BYTES // (block_bytes * num_blocks))


class MeasuredPath(Protocol):
    """One way between two processes."""

    version: str
    num_calls: int
    """Network calls that the latest move took; 0 where the system does not tell."""

    def open(self, path: str, block_bytes: int, num_blocks: int) -> None:
        """Start the receiver, and fill all sources."""
        ...

    def move(self, region: int) -> int:
        """Bring all blocks of one region over: nanoseconds until the sender knows that they are there."""
        ...

    def close(self) -> None:
        """End the receiver."""
        ...


class TransferChild:
    """Answers requests for one path."""

    def __init__(self, path: MeasuredPath) -> None:
        self._path = path
        self._region = 0
        self._num_regions = 1

    def open(self, request: dict[str, Any]) -> None:
        self._num_regions = num_regions(request["block_bytes"], request["num_blocks"])
        self._path.open(**request)

    def move(self, request: dict[str, Any]) -> list[int]:
        """Times of `count` moves."""
        times = []
        for _ in range(request["count"]):
            self._region = (self._region + 1) % self._num_regions
            times.append(self._path.move(self._region))
        return times

    def close(self, _request: dict[str, Any]) -> int:
        """How many network calls a move took."""
        self._path.close()
        return self._path.num_calls


class Receiver:
    """The other process: the same module, started with arguments."""

    def __init__(self, module: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            (sys.executable, "-m", f"memserve.bench.systems.{module}", *arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None  # noqa: S101
        self.hello = ""
        while not self.hello.startswith("> "):
            self.hello = self._process.stdout.readline()
            if not self.hello:
                raise RuntimeError(f"the receiver of {module} ended with status {self._process.wait()}")
        self.hello = self.hello[2:].strip()

    def close(self) -> None:
        assert self._process.stdin is not None  # noqa: S101
        assert self._process.stdout is not None  # noqa: S101
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def receive(hello: str) -> None:
    """Of a receiver: say how it is reached and stay until the sender has ended."""
    sys.stdout.write(f"> {hello}\n")
    sys.stdout.flush()
    sys.stdin.read()


def timed(action: Callable[[], object]) -> int:
    """Nanoseconds."""
    start = perf_counter_ns()
    action()
    return perf_counter_ns() - start


def serve_path(make: Callable[[], MeasuredPath]) -> None:
    """Main of a child that measures one path."""

    def start() -> System:
        path = make()
        child = TransferChild(path)
        return System(path.version, {"open": child.open, "move": child.move, "close": child.close})

    serve(start)

"""What every measured index answers: open a tree, insert the next turns, match, tell the memory.

Owns the order of the calls and the check that a match found what is there. The system itself takes the
time, because what surrounds the measured call (making ids, events, tensors) differs between systems.
"""

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from memserve.bench.prompts import Shape, Tokens, Turn, partly_cached, tokens_of, turns
from memserve.bench.systems.channel import System, serve


class MeasuredIndex(Protocol):
    """One index. Times are in nanoseconds and exclude making the input."""

    version: str
    forms: tuple[str, ...]
    """Forms of input it takes: "int32" (a NumPy array), "list" (a Python list), "array" (array.array)."""

    def open(self, num_blocks: int) -> None:
        """Start with an empty index that has room for that many blocks, and drop the one before."""
        ...

    def insert(self, tokens: Tokens, known: int, form: str) -> int:
        """Time to index a prompt of which the first `known` blocks are indexed."""
        ...

    def match(self, tokens: Tokens, form: str) -> tuple[int, int]:
        """Time to look a prompt up, and how many blocks were found."""
        ...

    def variants(self, tokens: Tokens) -> dict[str, int]:
        """Parts or variants worth a row of their own: operation -> time."""
        ...


class IndexChild:
    """Answers requests for one system."""

    def __init__(self, index: MeasuredIndex) -> None:
        self._index = index
        self._shape = Shape("shallow", 2)
        self._turns: Iterator[Turn] = iter(())
        self._rss = 0

    def open(self, request: dict[str, Any]) -> list[str]:
        """The forms of input that the system takes."""
        self._shape = Shape(**request)
        self._turns = turns(self._shape)
        self._index.open(self._shape.num_blocks)
        tokens_of(self._shape, 0, self._shape.blocks)  # what makes tokens is loaded before memory is looked at
        gc.collect()
        self._rss = rss_bytes()
        return list(self._index.forms)

    def insert(self, request: dict[str, Any]) -> list[tuple[str, int]]:
        """Form and time of the full prompts among the next `count` turns; an empty list when all are in."""
        times = []
        for _, turn in zip(range(request["count"]), self._turns, strict=False):
            tokens = tokens_of(self._shape, turn.leaf, turn.blocks)
            form = self._index.forms[turn.leaf % len(self._index.forms)]
            spent = self._index.insert(tokens, turn.known, form)
            if turn.is_full:
                times.append((form, spent))
        return times

    def match(self, request: dict[str, Any]) -> list[int]:
        """Times to look up the full prompts of these leaves, `percent` of each cached."""
        percent, times = request["percent"], []
        for leaf in request["leaves"]:
            tokens = partly_cached(self._shape, leaf, percent)
            spent, found = self._index.match(tokens, request["form"])
            if found != self._shape.blocks * percent // 100:
                raise RuntimeError(f"{found} blocks found instead of {percent} % of {self._shape.blocks}")
            times.append(spent)
        return times

    def extra(self, request: dict[str, Any]) -> list[dict[str, int]]:
        """Further operations on the full prompts of these leaves."""
        return [self._index.variants(tokens_of(self._shape, leaf, self._shape.blocks)) for leaf in request["leaves"]]

    def memory(self, _request: dict[str, Any]) -> float:
        """Bytes that each indexed block added to the process since `open`."""
        gc.collect()
        return (rss_bytes() - self._rss) / self._shape.num_blocks


def rss_bytes() -> int:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def serve_index(make: Callable[[], MeasuredIndex]) -> None:
    """Main of a child that measures one index."""

    def start() -> System:
        index = make()
        child = IndexChild(index)
        # A collection in the middle of one call is the interpreter's cost, not the index': it goes between calls.
        gc.disable()
        names = ("open", "insert", "match", "extra", "memory")
        return System(index.version, {name: getattr(child, name) for name in names})

    serve(start)

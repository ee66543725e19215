"""A system that answers, and how it is asked what it did: one class for each way of telling.

begin -> (a cell is played) -> observe
"""

from collections.abc import Sequence
from typing import Protocol

import aiohttp

from memserve.bench.serve.observation import (
    Observed,
    VllmCounters,
    observed_in_answers,
    observed_in_counters,
    read_counters,
    read_reports,
)
from memserve.bench.serve.player import Played


class Stack(Protocol):
    url: str
    pids: tuple[int, ...]
    """Processes above all others of the system."""

    async def begin(self) -> None:
        """A cell is about to be played. Raises InstanceUnavailable."""
        ...

    async def observe(self, played: Sequence[Played]) -> Observed:
        """What became of the prompts since `begin`. Raises InstanceUnavailable."""
        ...


class MemserveStack:
    """Each request has its reports."""

    def __init__(self, *, url: str, pids: tuple[int, ...], http: aiohttp.ClientSession) -> None:
        self.url = url
        self.pids = pids
        self._http = http

    async def begin(self) -> None:
        """Nothing to note: reports are kept by request."""

    async def observe(self, played: Sequence[Played]) -> Observed:
        return await read_reports(self._http, url=self.url, played=played)


class ColocatedStack:
    """Each answer has its usage."""

    def __init__(self, *, url: str, pids: tuple[int, ...]) -> None:
        self.url = url
        self.pids = pids

    async def begin(self) -> None:
        """Nothing to note: usage comes with each answer."""

    async def observe(self, played: Sequence[Played]) -> Observed:
        return observed_in_answers(played)


class SplitStack:
    """Only counters of the servers tell hits from what was handed over."""

    def __init__(
        self, *, url: str, pids: tuple[int, ...], prefill: str, decode: str, http: aiohttp.ClientSession
    ) -> None:
        self.url = url
        self.pids = pids
        self._prefill = prefill
        self._decode = decode
        self._http = http
        self._before = VllmCounters(hit_tokens=0, external_tokens=0, moved_bytes=0)

    async def begin(self) -> None:
        self._before = await self._counters()

    async def observe(self, played: Sequence[Played]) -> Observed:
        return observed_in_counters(self._before, await self._counters())

    async def _counters(self) -> VllmCounters:
        return await read_counters(self._http, prefilling=(self._prefill,), others=(self._decode,))

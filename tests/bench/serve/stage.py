"""A small run against engines that compute nothing: the same code as against real ones. Not a test."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from memserve.bench.records import Missing
from memserve.bench.serve.journal import Journal
from memserve.bench.serve.results import Origin
from memserve.bench.serve.run import ServePlan, ServeRun
from memserve.bench.serve.sessions import Line, Script, Words
from memserve.bench.serve.stack import ColocatedStack, Stack
from memserve.bench.serve.systems import System, find_systems
from memserve.bench.serve.workloads import Workload
from memserve.core.clock import SystemClock
from memserve.core.errors import ConfigError
from memserve.gateway.server import running
from tests.fakes.engine import FakeEngine
from tests.fakes.model import TOKENIZER

WORDS = Words(TOKENIZER)
LINES = (Line(text="hello?", max_tokens=3), Line(text="and then?", max_tokens=5))
SCRIPTS = tuple(Script(name=f"s{number}", opening="", lines=LINES) for number in range(2))
ORIGIN = Origin(sessions=2, seed=0, commit="abc", machine="test", run="r")


class Diary:
    """A Progress that keeps what it was told."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.steps: list[str] = []

    def phase(self, text: str, *, steps: int) -> None:
        self.phases.append(text)

    def step(self, text: str) -> None:
        self.steps.append(text)


def make_plan(
    systems: str, *, rates: tuple[float, ...] = (1e3,), repetitions: int = 1, deadline_s: float = 60.0
) -> ServePlan:
    return ServePlan(
        systems=find_systems(systems),
        rates=rates,
        num_repetitions=repetitions,
        workload=Workload(name="test", scaling="none", scripts=SCRIPTS),
        seed=0,
        context=10_000,
        model="tiny",
        think_s=0.0,
        deadline_s=deadline_s,
    )


class Theatre:
    """Systems by name, each a fake engine; a name that has none does not start."""

    def __init__(self, engines: Mapping[str, FakeEngine]) -> None:
        self.engines = engines
        self.started: list[str] = []
        self.diary = Diary()

    @asynccontextmanager
    async def start(self, system: System, label: str) -> AsyncIterator[Stack]:
        self.started.append(label)
        if system.name not in self.engines:
            raise ConfigError("it has no engine")
        async with running(self.engines[system.name].app) as port:
            yield ColocatedStack(url=f"http://127.0.0.1:{port}", pids=())

    async def play(self, plan: ServePlan, json: Path) -> tuple[list[Missing], Journal]:
        journal = Journal(json, run=ORIGIN.run)
        async with aiohttp.ClientSession() as http:
            missing = await ServeRun(
                plan,
                start=self.start,
                words=WORDS,
                journal=journal,
                origin=ORIGIN,
                http=http,
                clock=SystemClock(),
                progress=self.diary,
            ).run()
        return missing, journal

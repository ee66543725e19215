"""The two halves of the demo: play the scenes on our cluster, then the recorded requests on plain vLLM.

Owns their order and what is carried from one to the other. Where the servers come from is handed in as
context managers, so the same code plays against real ones and against a test's.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import aiohttp
import msgspec

from memserve.core.clock import Clock
from memserve.demo.facts import Facts, FactsReader
from memserve.demo.player import Answer, Player, Turn
from memserve.demo.report import DemoReport, make_report
from memserve.demo.script import Scene


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """A server that answers."""

    url: str
    model: str


Server = Callable[[], AbstractAsyncContextManager[Served]]
"""Starts a server for the length of a block."""


class Progress(Protocol):
    """Told what happens, for the person who waits."""

    def phase(self, text: str, *, steps: int) -> None:
        """A new stretch of work with so many steps to come; 0 when they cannot be counted."""
        ...

    def step(self, text: str) -> None:
        """One step of it is done."""
        ...


class Stage:
    """One run of the demo."""

    def __init__(self, *, ours: Server, plain: Server, clock: Clock, progress: Progress) -> None:
        self._ours = ours
        self._plain = plain
        self._clock = clock
        self._progress = progress

    async def run(self, scenes: Sequence[Scene]) -> DemoReport:
        """Play everything twice. Never both servers at once: they would take each other's cores."""
        self._progress.phase("starting one prefill and one decode instance (about a minute)", steps=0)
        async with self._ours() as served:
            turns, facts = await self._play(served, scenes)
        self._progress.phase("starting plain vLLM (about half a minute)", steps=0)
        async with self._plain() as reference:
            plain = await self._replay(reference, turns)
        return make_report(model=served.model, turns=turns, facts=facts, plain=plain)

    async def _play(self, served: Served, scenes: Sequence[Scene]) -> tuple[list[Turn], list[Facts | None]]:
        turns: list[Turn] = []
        facts: list[Facts | None] = []
        self._progress.phase("memserve", steps=sum(len(scene.human) for scene in scenes))
        async with (
            Player(url=served.url, model=served.model, clock=self._clock) as player,
            aiohttp.ClientSession() as session,
        ):
            reader = FactsReader(url=served.url, session=session, clock=self._clock)
            for scene in scenes:
                async for turn in player.play(scene):
                    turns.append(turn)
                    facts.append(await reader.read(turn.request))
                    self._progress.step(_line(turn, turn.answer))
        return turns, facts

    async def _replay(self, reference: Served, turns: Sequence[Turn]) -> list[Answer]:
        answers: list[Answer] = []
        self._progress.phase("plain vLLM", steps=len(turns))
        async with Player(url=reference.url, model=reference.model, clock=self._clock) as player:
            for turn in turns:
                answers.append(await player.ask(request=turn.request, messages=turn.messages))
                self._progress.step(_line(turn, answers[-1]))
        return answers


def _line(turn: Turn, answer: Answer) -> str:
    return (
        f"conversation {turn.conversation}, turn {turn.turn}: {answer.prompt_tokens} prompt tokens, "
        f"first token after {answer.ttft_s:.2f} s, done after {answer.jct_s:.2f} s"
    )

"""A run of `memserve bench serve`: every system at every rate, in repetitions that alternate between the systems.

    for each repetition: for each system: start -> warm up -> for each rate: play, record -> stop

Owns that order, what is skipped because it is done already, and what becomes of a system that fails: it is left out
from then on and the others go on. Where systems come from is handed in, so the same code plays against real ones
and against a test's. A system serves all rates in one life; prompts at each rate begin with another marker, so what
one rate has cached is of no use to the next.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

import aiohttp
import msgspec

from memserve.bench.processes import cpu_seconds
from memserve.bench.records import Missing, now
from memserve.bench.serve.journal import Journal
from memserve.bench.serve.player import REQUEST_DEADLINE_S, Played, Player
from memserve.bench.serve.record import Cell
from memserve.bench.serve.results import Origin, make_result, request_lines
from memserve.bench.serve.sessions import THINK_S, Session, Words, make_sessions
from memserve.bench.serve.stack import Stack
from memserve.bench.serve.systems import System
from memserve.bench.serve.workloads import Workload
from memserve.core.clock import Clock
from memserve.core.errors import InstanceUnavailable, MemserveError
from memserve.demo.stage import Progress

Start = Callable[[System, str], AbstractAsyncContextManager[Stack]]
"""Starts a system for the length of a block; the text tells this start from others."""

_WARM_UP_REQUESTS, _WARM_UP_TOKENS, _WARM_UP_REPEATS = 4, 12, 64
_WARM_UP_S, _POLL_S = 60.0, 1.0


class ServePlan(msgspec.Struct, frozen=True, kw_only=True):
    """What is played."""

    systems: tuple[System, ...]
    rates: tuple[float, ...]
    num_repetitions: int
    workload: Workload
    seed: int
    context: int
    """Tokens that the model takes, answer included."""
    model: str
    """As clients name it."""
    think_s: float = THINK_S
    deadline_s: float = REQUEST_DEADLINE_S
    """Of a whole answer."""


class ServeRun:
    """`http` and the journal belong to the caller."""

    def __init__(
        self,
        plan: ServePlan,
        *,
        start: Start,
        words: Words,
        journal: Journal,
        origin: Origin,
        http: aiohttp.ClientSession,
        clock: Clock,
        progress: Progress,
    ) -> None:
        self._plan = plan
        self._start = start
        self._words = words
        self._journal = journal
        self._origin = origin
        self._http = http
        self._clock = clock
        self._progress = progress

    async def run(self) -> list[Missing]:
        """Play what is not done yet; systems that failed, and why. Raises ConfigError for a rate that is no rate."""
        sessions = {rate: self._sessions(rate) for rate in self._plan.rates}
        missing: dict[str, Missing] = {}
        for repetition in range(1, self._plan.num_repetitions + 1):
            for system in self._plan.systems:
                cells = [cell for cell in self._cells(system, repetition) if self._journal.find(cell) is None]
                if not cells or system.name in missing:
                    continue
                try:
                    await self._play(system, cells, sessions)
                except MemserveError as error:
                    missing[system.name] = Missing(system=system.name, reason=str(error))
                    self._progress.phase(f"{system.name} is left out: {error}", steps=0)
        return list(missing.values())

    def _cells(self, system: System, repetition: int) -> list[Cell]:
        name = self._plan.workload.name
        return [Cell(system=system.name, workload=name, rate=rate, repetition=repetition) for rate in self._plan.rates]

    def _sessions(self, rate: float) -> tuple[Session, ...]:
        return make_sessions(
            self._plan.workload.scripts,
            words=self._words,
            rate=rate,
            seed=self._plan.seed,
            context=self._plan.context,
            marker=f"{rate:g}",
            think_s=self._plan.think_s,
        )

    async def _play(self, system: System, cells: Sequence[Cell], sessions: dict[float, tuple[Session, ...]]) -> None:
        self._progress.phase(f"starting {system.name}, repetition {cells[0].repetition}", steps=0)
        async with self._start(system, f"{system.name}-{cells[0].repetition}") as stack:
            player = Player(
                url=stack.url,
                model=self._plan.model,
                special_ids=self._words.special_ids,
                http=self._http,
                clock=self._clock,
                deadline_s=self._plan.deadline_s,
            )
            await self._warm_up(player)
            for cell in cells:
                await self._cell(cell, stack, player, sessions[cell.rate])

    async def _cell(self, cell: Cell, stack: Stack, player: Player, sessions: Sequence[Session]) -> None:
        steps = sum(len(session.turns) for session in sessions)
        where = f"{cell.system}, {cell.workload}, {cell.rate:g} sessions/s, repetition {cell.repetition}"
        self._progress.phase(where, steps=steps)
        await stack.begin()
        started, cpu_s = now(), cpu_seconds(stack.pids)
        name = f"{cell.system}-{cell.rate:g}-{cell.repetition}"
        played = await player.play(sessions, name=name, on_answer=self._tell)
        cpu_s = cpu_seconds(stack.pids) - cpu_s
        failed = [each for each in played if each.answer is None]
        if len(failed) == len(played):
            raise InstanceUnavailable(f"no request was answered: {failed[0].error}")
        observed = await stack.observe(played)
        lines = request_lines(cell, played, observed)
        result = make_result(
            cell,
            lines,
            origin=self._origin,
            observed=observed,
            failed=failed,
            last_arrival_s=sessions[-1].arrival_s,
            cpu_s=cpu_s,
            started=started,
            reference=self._journal.reference(cell),
        )
        self._journal.append(result, lines)

    async def _warm_up(self, player: Player) -> None:
        """A few requests that share nothing with the sessions, of about 500 tokens, one after the other: the first
        ones of an engine are slow, a router that has just started knows no engine yet, and one that goes by predicted
        times has seen none. Raises InstanceUnavailable when none is answered in time."""
        deadline = self._clock.now() + _WARM_UP_S
        while True:
            try:
                for number in range(_WARM_UP_REQUESTS):
                    await self._warm_up_request(player, number)
            except InstanceUnavailable:
                if self._clock.now() > deadline:
                    raise
                await asyncio.sleep(_POLL_S)
            else:
                return

    async def _warm_up_request(self, player: Player, number: int) -> None:
        prompt = f"{number} begins what nobody asks later. " * _WARM_UP_REPEATS
        await player.ask(prompt, max_tokens=_WARM_UP_TOKENS, request=f"warm-up-{number}-{self._clock.now():.3f}")

    def _tell(self, played: Played) -> None:
        where = f"session {played.session + 1}, turn {played.turn + 1}"
        if played.answer is None:
            self._progress.step(f"{where}: {played.error}")
            return
        self._progress.step(
            f"{where}: {played.answer.prompt_tokens} prompt tokens, first token after {played.answer.ttft_s:.2f} s, "
            f"done after {played.answer.jct_s:.2f} s"
        )

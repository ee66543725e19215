"""One calibration of a running instance: rounds of prefills, decodes and moves for as long as there is time.

Owns the order and the time budget. The first round of each kind is always finished; a further one begins only
while less than its share of the time is used, so a slow machine takes longer than asked rather than knowing nothing.

    warm up -> speed -> schedule -> prefill chains -> decodes -> moves by path -> loads from the pool -> fit
"""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from memserve.calibration.measurements import Calibration, Measurements, Points, calibrate
from memserve.calibration.moves import measure_moves
from memserve.calibration.prober import Prefilled, Prober
from memserve.calibration.schedule import DecodeRun, Schedule, longest_prompt, schedule
from memserve.cluster.view import InstanceView
from memserve.core.clock import Clock
from memserve.core.enums import DataPath
from memserve.core.errors import ConfigError
from memserve.scheduler.cost_model import DecodeSample, PrefillSample, ProfileIdentity, TransferSample
from memserve.serving.profiles import HOST_PATH

LONGEST_PROMPT = 8192
"""Tokens; longer ones are extrapolated."""
_WARM_UP_TOKENS = 64
_SPEED_BLOCKS = 8
_DECODED_TOKENS = 12
_ANSWER_ROOM = 64
_PREFILL_SHARE, _DECODE_SHARE, _MOVE_SHARE = 0.4, 0.52, 0.55
"""Of the time, at which the last round of each kind begins."""


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """What is calibrated."""

    instance: InstanceView
    cluster: str
    paths: tuple[DataPath, ...]
    identity: ProfileIdentity
    source: str
    kv_capacity_tokens: int


class CalibrationSession:
    """One Target; `run` once."""

    def __init__(
        self, target: Target, *, prober: Prober, clock: Clock, seconds: float, tell: Callable[[str], None]
    ) -> None:
        """`seconds` for all measurements together; `tell` gets a line for the person who waits."""
        self._target = target
        self._prober = prober
        self._clock = clock
        self._seconds = seconds
        self._tell = tell
        self._peer = target.instance.peer
        self._measured = Measurements(prefill=Points(), decode=Points(), paths={})

    async def run(self) -> Calibration:
        """Raises InstanceUnavailable when the instance fails, ConfigError when too little could be measured."""
        started = self._clock.now()
        plan = await self._plan()
        await self._repeat(lambda: self._prefills(plan), until=started + self._seconds * _PREFILL_SHARE)
        self._tell(f"prefill: {len(self._measured.prefill)} samples, up to {plan.longest} tokens")
        prompt = self._prober.prompt(plan.longest)
        await self._prober.prefill(prompt)
        await self._repeat(lambda: self._decodes(plan, prompt), until=started + self._seconds * _DECODE_SHARE)
        self._tell(f"decode: {len(self._measured.decode)} samples")
        await self._repeat(lambda: self._moves(plan, prompt), until=started + self._seconds * _MOVE_SHARE)
        self._tell(f"moves: {sum(map(len, self._measured.paths.values()))} samples")
        await self._repeat(lambda: self._reload(plan, prompt), until=started + self._seconds)
        self._tell(f"loads from the pool: {len(self._measured.paths[HOST_PATH])} samples")
        return self._fitted()

    async def _plan(self) -> Schedule:
        """The longest prompt is chosen by how fast a short one is computed."""
        size = self._peer.identity.block_size
        await self._prober.prefill(self._prober.prompt(_WARM_UP_TOKENS))
        first = await self._prober.prefill(self._prober.prompt(_SPEED_BLOCKS * size))
        room = min(await self._prober.max_tokens() - _ANSWER_ROOM, self._target.kv_capacity_tokens // 2)
        if room < _SPEED_BLOCKS * size:
            raise ConfigError(f"the engine has room for prompts of {room} tokens: {_SPEED_BLOCKS * size} are needed")
        longest = longest_prompt(
            tokens_per_s=first.prompt_tokens / first.seconds,
            seconds=self._seconds * _PREFILL_SHARE,
            block_size=size,
            most=min(room, LONGEST_PROMPT),
        )
        return schedule(longest=longest, block_size=size)

    async def _repeat(self, round_of: Callable[[], Awaitable[None]], *, until: float) -> None:
        """At least once; as often as the next round, taking as long as the last, still ends in time."""
        took = 0.0
        while not took or self._clock.now() + took < until:
            began = self._clock.now()
            await round_of()
            took = max(self._clock.now() - began, 1e-6)

    async def _prefills(self, plan: Schedule) -> None:
        for chain in plan.chains:
            prompt = self._prober.prompt(chain.lengths[-1])
            for length in chain.lengths:
                found = await self._prober.prefill(prompt[:length])
                self._measured.prefill.add(
                    (found.prompt_tokens, found.cached_tokens), _sample(found), judges=chain.judges
                )

    async def _decodes(self, plan: Schedule, prompt: list[int]) -> None:
        """All sequences share a cached prompt but for its last tokens, so that they begin together."""
        for run in plan.decodes:
            step_s = await self._step(run, prompt)
            context = run.batch * (run.context_tokens + _DECODED_TOKENS // 2)
            sample = DecodeSample(batch=run.batch, context_tokens=context, seconds=step_s)
            self._measured.decode.add((run.batch, run.context_tokens), sample, judges=run.judges)

    async def _step(self, run: DecodeRun, prompt: list[int]) -> float:
        prompts = [[*prompt[: run.context_tokens - 1], *self._prober.prompt(1)] for _ in range(run.batch)]
        return await self._prober.decode_step(prompts, num_tokens=_DECODED_TOKENS + run.batch)

    async def _moves(self, plan: Schedule, prompt: list[int]) -> None:
        for path in self._target.paths:
            points = self._measured.paths.setdefault(path, Points())
            samples = await asyncio.to_thread(
                measure_moves,
                self._peer,
                path=path,
                cluster=self._target.cluster,
                prompt=prompt,
                moves=plan.moves,
                clock=self._clock,
            )
            for move, sample in samples:
                points.add(sample.num_bytes, sample, judges=move.judges)

    async def _reload(self, plan: Schedule, prompt: list[int]) -> None:
        """The same prompt twice: with the engine's own cache emptied, all of the prefix comes from the pool first."""
        size = self._peer.identity.block_size
        loads = self._measured.paths.setdefault(HOST_PATH, Points())
        per_token = self._peer.identity.block_bytes // size
        for move in plan.moves:
            num_tokens = move.num_blocks * size
            await self._prober.forget_cache()
            loaded = await self._prober.prefill(prompt[: num_tokens + 1])
            cached = await self._prober.prefill(prompt[: num_tokens + 1])
            if loaded.cached_tokens == cached.cached_tokens == num_tokens:
                sample = TransferSample(num_bytes=num_tokens * per_token, seconds=loaded.seconds - cached.seconds)
                loads.add(num_tokens, sample, judges=move.judges)

    def _fitted(self) -> Calibration:
        identity = self._peer.identity
        return calibrate(
            self._measured,
            identity=self._target.identity,
            source=self._target.source,
            kv_bytes_per_token=identity.block_bytes // identity.block_size,
            kv_capacity_tokens=self._target.kv_capacity_tokens,
        )


def _sample(prefilled: Prefilled) -> PrefillSample:
    ratio = prefilled.cached_tokens / prefilled.prompt_tokens
    return PrefillSample(prompt_tokens=prefilled.prompt_tokens, cached_ratio=ratio, seconds=prefilled.seconds)

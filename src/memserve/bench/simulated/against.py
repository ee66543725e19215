"""The simulator against reality: the requests of a `memserve bench serve` run, played again when they were sent.

Owns what stands for which system. Every request is played at the moment at which it was really sent, with its own
prompt and the length of its answer, by a profile that `memserve calibrate` measured on the same machine; what the run
took is then beside what the simulator says. Systems that the simulator has no counterpart for are named and left out.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median

import msgspec

from memserve.bench.serve.record import (
    Cell,
    RequestLine,
    ServeResult,
    read_requests,
    read_results,
    requests_file,
    results_file,
)
from memserve.bench.serve.sessions import Words, make_sessions
from memserve.bench.serve.workloads import make_workload
from memserve.bench.simulated.record import AgainstResult
from memserve.bench.simulated.traces import trace_of
from memserve.core.enums import CachingMode
from memserve.core.errors import ConfigError
from memserve.scheduler.cost_model import CostProfile
from memserve.simulator.result import SimulationResult
from memserve.simulator.run import Simulation
from memserve.simulator.setting import Setting

NUM_INSTANCES = 2
"""Of every system in bench/serve/systems.py."""
BLOCK_TOKENS = 32
"""What `memserve serve` and every system of `memserve bench serve` start vLLM with on CPUs."""


class Counterpart(msgspec.Struct, frozen=True, kw_only=True):
    """What is simulated in the place of a system."""

    layout: str
    caching: CachingMode
    policy: str = "prompt-tree"


_COUNTERPARTS = {
    "vllm": Counterpart(layout="colocated", caching=CachingMode.BASIC, policy="round-robin"),
    "colocated": Counterpart(layout="colocated", caching=CachingMode.RETURN),
    "auto": Counterpart(layout="flexible", caching=CachingMode.RETURN),
} | {mode.value: Counterpart(layout="1p1d", caching=mode) for mode in CachingMode}


class AgainstPlan(msgspec.Struct, frozen=True, kw_only=True):
    runs: tuple[Path, ...]
    """JSON files; the lines of each lie beside it."""
    profile: CostProfile
    data: Path
    words: Words
    context: int
    """Tokens that the run's model takes."""


def play_against(plan: AgainstPlan) -> tuple[list[AgainstResult], list[str]]:
    """Each cell beside its counterpart, and the systems that have none.

    Raises ConfigError for files that are missing or of another form, and for a run without a comparable system.
    """
    cells = [cell for run in plan.runs for cell in read_results(results_file(run))]
    lines = [line for run in plan.runs for line in read_requests(requests_file(run))]
    pairs = [(cell, counterpart(cell.system)) for cell in cells]
    results = [
        _result(cell, own, _simulated(plan, cell, own, found))
        for cell, found in pairs
        if found is not None and (own := [line for line in lines if _is_of(line, cell)])
    ]
    if not results:
        named = ", ".join(map(str, plan.runs))
        raise ConfigError(f"{named} has no finished cell of a system that the simulator knows")
    return results, sorted({cell.system for cell, found in pairs if found is None})


def counterpart(system: str) -> Counterpart | None:
    """By the name in bench/serve/systems.py; how KV is cut for its way makes no difference here."""
    return _COUNTERPARTS.get(system.removesuffix("-by-layer").removesuffix("-by-request"))


def _is_of(line: RequestLine, cell: ServeResult) -> bool:
    return all(getattr(line, field) == getattr(cell, field) for field in Cell.__struct_fields__)


def _simulated(
    plan: AgainstPlan, cell: ServeResult, lines: Sequence[RequestLine], found: Counterpart
) -> SimulationResult:
    workload = make_workload(
        cell.workload, num_sessions=cell.sessions, seed=cell.seed, words=plan.words, data=plan.data
    )
    sessions = make_sessions(
        workload.scripts,
        words=plan.words,
        rate=cell.rate,
        seed=cell.seed,
        context=plan.context,
        marker=f"{cell.rate:g}",
    )
    sent = {(line.session, line.turn): line.arrival_s for line in lines}
    setting = Setting(
        policy=found.policy,
        instances=NUM_INSTANCES,
        profile=plan.profile,
        layout=found.layout,
        caching=found.caching,
        seed=cell.seed,
    )
    return Simulation(trace_of(sessions, name=cell.workload, block_tokens=BLOCK_TOKENS, sent=sent), setting).run()


def _result(cell: ServeResult, lines: Sequence[RequestLine], simulated: SimulationResult) -> AgainstResult:
    ttft, jct = [line.ttft_s for line in lines], [line.jct_s for line in lines]
    return AgainstResult(
        system=cell.system,
        workload=cell.workload,
        rate=cell.rate,
        repetition=cell.repetition,
        requests=len(lines),
        ttft_p50_s=median(ttft),
        simulated_ttft_p50_s=simulated.ttft_p50_s,
        ttft_avg_s=mean(ttft),
        simulated_ttft_avg_s=simulated.ttft_avg_s,
        jct_p50_s=median(jct),
        simulated_jct_p50_s=simulated.jct_p50_s,
        jct_avg_s=mean(jct),
        simulated_jct_avg_s=simulated.jct_avg_s,
    )

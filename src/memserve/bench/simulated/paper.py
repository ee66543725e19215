"""The paper's evaluation with 4 instances, in simulation: its workloads at its lengths, its systems, its figures.

Owns which systems are played, at which rate, and what of the paper stands beside them. As in the paper, requests
come as a Poisson process that keeps the order within a session. The write-ups of the paper do not tell its
rates, so each workload comes at rates found by bisection: those at which PD-Basic's average TTFT is so many times
that of an idle cluster. Times are medians over seeds, gains are against PD-Basic of the same seeds.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import msgspec

from memserve.bench.serve.sessions import Words, make_sessions
from memserve.bench.serve.workloads import Lengths, Workload, make_workload
from memserve.bench.simulated.record import Gains, PaperResult
from memserve.bench.simulated.traces import by_request, trace_of
from memserve.core.enums import CachingMode
from memserve.scheduler.cost_model import CostProfile
from memserve.simulator.result import SimulationResult
from memserve.simulator.run import Simulation
from memserve.simulator.setting import Setting
from memserve.simulator.trace import Trace

CONTEXT = 4096
"""Tokens that Llama2 takes."""
BLOCK_TOKENS = 16
NUM_INSTANCES = 4
LENGTHS = Lengths(
    max_prompt=2048, answer_share=1, max_answer=1024, max_turns=12, document_share=8, max_observation=1024, max_steps=12
)
"""As recorded, as far as they fit into the context."""

_SEARCHED = 9
"""Steps of the bisection: to about 2 % of the rate."""
_RATES = (0.1, 200.0)
"""Requests a second between which it searches."""
_AT_MOST = {"react": 140}
"""Sessions that the data has."""
_TO_NOBODY = "least-load"


class PaperSystem(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    layout: str
    caching: CachingMode
    policy: str = "prompt-tree"


BASELINE = PaperSystem(name="PD-Basic", layout="2p2d", caching=CachingMode.BASIC, policy=_TO_NOBODY)
SYSTEMS = (
    PaperSystem(name="colocated, no caching", layout="colocated", caching=CachingMode.BASIC, policy=_TO_NOBODY),
    PaperSystem(name="colocated, caching", layout="colocated", caching=CachingMode.RETURN),
    BASELINE,
    PaperSystem(name="PD-Caching-1", layout="2p2d", caching=CachingMode.PREFILL),
    PaperSystem(name="PD-Caching-2", layout="2p2d", caching=CachingMode.BOTH),
    PaperSystem(name="PD-Caching-3", layout="2p2d", caching=CachingMode.RETURN),
    PaperSystem(name="roles by itself", layout="flexible", caching=CachingMode.RETURN),
)


PAPER: dict[str, Gains] = {
    "sharegpt": Gains(ttft_avg=-0.58, ttft_p99=-0.45, jct_avg=-0.17, jct_p99=-0.29),
    "loogle": Gains(ttft_avg=-0.562, ttft_p99=-0.452, jct_avg=-0.269, jct_p99=-0.225),
    "react": Gains(ttft_avg=-0.785, ttft_p99=-0.849, jct_avg=-0.267, jct_p99=-0.214),
}
"""Of caching, over PD-Basic (arXiv 2406.17565, as write-ups give them)."""


class PaperPlan(msgspec.Struct, frozen=True, kw_only=True):
    profile: CostProfile
    data: Path
    words: Words
    workloads: tuple[str, ...]
    num_sessions: int
    seeds: tuple[int, ...]
    loads: tuple[float, ...]
    """PD-Basic's average TTFT, as many times that of an idle cluster."""


def play_paper(plan: PaperPlan, *, each: Callable[[PaperResult], None] = lambda _: None) -> list[PaperResult]:
    """Every system with every workload. Raises ConfigError for data that is missing or of another form."""
    results: list[PaperResult] = []
    for name in plan.workloads:
        traces = [_trace(plan, name, seed) for seed in plan.seeds]
        idle_s = _play(plan, traces[0], BASELINE, _RATES[0], plan.seeds[0]).ttft_avg_s
        for rate in dict.fromkeys(_rate(plan, traces[0], load * idle_s) for load in plan.loads):
            base = _played(plan, traces, BASELINE, rate)
            load = round(base[0].ttft_avg_s / idle_s, 1)
            for system in SYSTEMS:
                runs = base if system is BASELINE else _played(plan, traces, system, rate)
                results.append(_result(system, runs, base, workload=name, load=load, rate=rate))
                each(results[-1])
    return results


def scaling(plan: PaperPlan) -> dict[str, str]:
    """How the lengths of each workload were cut, in words."""
    return {name: _workload(plan, name, plan.seeds[0]).scaling for name in plan.workloads}


def _workload(plan: PaperPlan, name: str, seed: int) -> Workload:
    number = min(plan.num_sessions, _AT_MOST.get(name, plan.num_sessions))
    return make_workload(name, num_sessions=number, seed=seed, words=plan.words, data=plan.data, lengths=LENGTHS)


def _trace(plan: PaperPlan, name: str, seed: int) -> Trace:
    """With one request a second; `Setting.speed` makes other rates of it."""
    scripts = _workload(plan, name, seed).scripts
    sessions = make_sessions(scripts, words=plan.words, rate=1.0, seed=seed, context=CONTEXT)
    return by_request(trace_of(sessions, name=name, block_tokens=BLOCK_TOKENS), seed=seed)


def _rate(plan: PaperPlan, trace: Trace, ttft_s: float) -> float:
    """At which PD-Basic takes so long to the first token; the highest one tried where sessions are too few for that."""
    low, high = _RATES
    for _ in range(_SEARCHED):
        rate = (low * high) ** 0.5
        if _play(plan, trace, BASELINE, rate, plan.seeds[0]).ttft_avg_s < ttft_s:
            low = rate
        else:
            high = rate
    return float(f"{(low * high) ** 0.5:.3g}")


def _played(plan: PaperPlan, traces: Sequence[Trace], system: PaperSystem, rate: float) -> list[SimulationResult]:
    return [_play(plan, trace, system, rate, seed) for trace, seed in zip(traces, plan.seeds, strict=True)]


def _play(plan: PaperPlan, trace: Trace, system: PaperSystem, rate: float, seed: int) -> SimulationResult:
    setting = Setting(
        policy=system.policy,
        instances=NUM_INSTANCES,
        profile=plan.profile,
        layout=system.layout,
        caching=system.caching,
        speed=rate,
        seed=seed,
    )
    return Simulation(trace, setting).run()


def _result(
    system: PaperSystem,
    runs: Sequence[SimulationResult],
    base: Sequence[SimulationResult],
    *,
    workload: str,
    load: float,
    rate: float,
) -> PaperResult:
    def gain(field: str) -> float:
        pairs = zip(runs, base, strict=True)
        return float(median(getattr(run, field) / getattr(basic, field) - 1.0 for run, basic in pairs))

    def middle(field: str) -> float:
        return float(median(getattr(run, field) for run in runs))

    return PaperResult(
        workload=workload,
        load=load,
        system=system.name,
        layout=system.layout,
        caching=system.caching,
        policy=system.policy,
        rate=rate,
        requests=sum(run.requests for run in runs),
        prompt_tokens_avg=middle("prompt_tokens_avg"),
        output_tokens_avg=middle("output_tokens_avg"),
        ttft_avg_s=middle("ttft_avg_s"),
        ttft_p99_s=middle("ttft_p99_s"),
        jct_avg_s=middle("jct_avg_s"),
        jct_p99_s=middle("jct_p99_s"),
        hit_ratio=middle("hit_ratio"),
        moved_bytes=middle("moved_bytes"),
        gains=Gains(
            ttft_avg=gain("ttft_avg_s"),
            ttft_p99=gain("ttft_p99_s"),
            jct_avg=gain("jct_avg_s"),
            jct_p99=gain("jct_p99_s"),
        ),
        paper=PAPER.get(workload) if system.name.startswith("PD-Caching") else None,
    )

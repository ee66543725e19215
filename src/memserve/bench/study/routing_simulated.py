"""The paper's routing experiment in the simulator: 80 sessions, 250 requests, share ratio 3, 3 prefill and 1 decode
instance (arXiv 2406.17565); documents and questions are made up, with lengths that fit Llama2's context.
"""

import asyncio
from random import Random

import msgspec

from memserve.bench.child import Say
from memserve.bench.study.base import Errand, Study
from memserve.bench.study.record import Answer, Point, Quantity, Question, Samples, Size
from memserve.bench.study.routing import POLICIES
from memserve.simulator.profiles import load_profile
from memserve.simulator.run import Simulation
from memserve.simulator.setting import Setting
from memserve.simulator.trace import BLOCK_TOKENS, Trace, TraceRequest

QUESTION = Question(
    name="routing-simulated",
    title="Routing policies, simulated: 3P1D, 80 sessions, 250 requests, share ratio 3",
    x=Quantity(name="rate", unit="requests/s"),
    quantities=(
        Quantity(name="TTFT_avg", unit="s"),
        Quantity(name="TTFT_P99", unit="s"),
        Quantity(name="hits", unit="% of blocks"),
    ),
)
PROFILE = "h800-llama2-13b-tp2"
SETTING = f"profile {PROFILE}, layout 3p1d; real scheduler and pools, modelled compute"
_SESSIONS, _REQUESTS, _SHARE_RATIO = 80, 250, 3
_DOCUMENT_BLOCKS = (3, 7)
_QUESTION_TOKENS, _OUTPUT_TOKENS = (20, 80), (10, 60)


class RoutingSimulatedPlan(msgspec.Struct, frozen=True, kw_only=True):
    rates: tuple[float, ...]
    num_seeds: int


PLANS = {
    Size.QUICK: RoutingSimulatedPlan(rates=(8, 24, 48), num_seeds=3),
    Size.FULL: RoutingSimulatedPlan(rates=(4, 8, 16, 24, 32, 48), num_seeds=10),
}


async def run(errand: Errand) -> Answer:
    return await asyncio.to_thread(measure, PLANS[errand.size], errand.say, seed=errand.seed)


def measure(plan: RoutingSimulatedPlan, say: Say, *, seed: int) -> Answer:
    """Every policy at every rate, over traces of as many seeds."""
    samples = Samples()
    profile = load_profile(PROFILE)
    for number in range(plan.num_seeds):
        trace = document_trace(seed + number)
        for rate in plan.rates:
            for policy in POLICIES:
                setting = Setting(
                    policy=policy, instances=4, profile=profile, layout="3p1d", speed=rate, seed=seed + number
                )
                found = Simulation(trace, setting).run()
                samples.add(
                    policy, rate, TTFT_avg=found.ttft_avg_s, TTFT_P99=found.ttft_p99_s, hits=100 * found.hit_ratio
                )
        say(f"seed {seed + number}: {samples!r}")
    points = samples.points()
    return Answer(points=points, findings=tuple(_gain(points, rate) for rate in plan.rates))


def document_trace(seed: int) -> Trace:
    """Sessions that ask about shared documents, Poisson with one request a second, in the order of each session."""
    random = Random(seed)  # noqa: S311 - draws a workload, keeps no secret
    documents = [random.randint(*_DOCUMENT_BLOCKS) for _ in range(-(-_SESSIONS // _SHARE_RATIO))]
    turns = [*range(_SESSIONS), *(random.randrange(_SESSIONS) for _ in range(_REQUESTS - _SESSIONS))]
    random.shuffle(turns)
    requests, at_s, names = [], 0.0, max(documents) * len(documents)
    for number, session in enumerate(turns):
        document = session % len(documents)
        first = document * max(documents)
        question = random.randint(*_QUESTION_TOKENS)
        requests.append(
            TraceRequest(
                at_s=at_s,
                prompt_tokens=documents[document] * BLOCK_TOKENS + question,
                output_tokens=random.randint(*_OUTPUT_TOKENS),
                blocks=(*range(first, first + documents[document]), names + number),
                session=f"session {session}",
            )
        )
        at_s += random.expovariate(1.0)
    return Trace(name="documents", requests=tuple(requests))


def _gain(points: tuple[Point, ...], rate: float) -> str:
    p99 = {p.series: p.p50 for p in points if p.x == rate and p.quantity == "TTFT_P99"}
    change = 100 * (p99["prompt-tree"] / p99["session"] - 1)
    return f"At {rate:g} requests/s, prompt-tree changes P99 TTFT by {change:+.0f} % over session."


STUDY = Study(question=QUESTION, setting=SETTING, run=run)

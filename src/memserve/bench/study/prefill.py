"""How long the first token takes, by the length of the prompt and how much of it is cached: one colocated instance."""

import msgspec

from memserve.bench.child import Say
from memserve.bench.study.base import Errand, Study
from memserve.bench.study.client import StudyClient
from memserve.bench.study.record import Answer, Quantity, Question, Samples, Size
from memserve.config import ClusterSettings, PoolSettings, ServeConfig

QUESTION = Question(
    name="prefill",
    title="Time to first token by prompt length and cached share",
    x=Quantity(name="prompt", unit="tokens"),
    quantities=(Quantity(name="TTFT", unit="s"),),
)
SETTING = "one colocated instance, one request at a time, through the gateway; what is cached, its engine holds"
CONFIG = ServeConfig(cluster=ClusterSettings(colocated=1), pool=PoolSettings(dram="512MiB"))
CACHED_PERCENT = (0, 50, 75, 100)
"""Of a prompt; at 100 the whole of it was sent before, and the engine computes what it must for one token."""


class PrefillPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Lengths are multiples of four blocks of the engine, so that each share is one of whole blocks."""

    lengths: tuple[int, ...]
    num_rounds: int


PLANS = {
    Size.QUICK: PrefillPlan(lengths=(256, 512, 1024), num_rounds=2),
    Size.FULL: PrefillPlan(lengths=(256, 512, 1024, 2048, 4096), num_rounds=3),
}


async def run(errand: Errand) -> Answer:
    async with errand.served(CONFIG) as client:
        return await measure(client, PLANS[errand.size], errand.say)


async def measure(client: StudyClient, plan: PrefillPlan, say: Say) -> Answer:
    """Rounds of every length and share, each with a prompt of its own."""
    samples = Samples()
    await client.ask(client.prompt(plan.lengths[0]))
    for number in range(plan.num_rounds):
        for length in plan.lengths:
            for percent in CACHED_PERCENT:
                prompt = client.prompt(length)
                if percent:
                    await client.ask(prompt[: length * percent // 100])
                timed = await client.ask(prompt)
                samples.add(f"{percent} % cached", length, TTFT=timed.ttft_s)
        say(f"round {number + 1} of {plan.num_rounds}: {samples!r}")
    return Answer(points=samples.points())


STUDY = Study(question=QUESTION, setting=SETTING, run=run)

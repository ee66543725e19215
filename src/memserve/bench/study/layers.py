"""KV handed over by layer against by request, as the load grows: one prefill and one decode instance."""

from itertools import cycle

import msgspec

from memserve.bench.child import Say
from memserve.bench.study.base import Errand, Study
from memserve.bench.study.client import StudyClient
from memserve.bench.study.record import Answer, Quantity, Question, Samples, Size
from memserve.config import ClusterSettings, PoolSettings, ServeConfig
from memserve.core.enums import TransferMode

QUESTION = Question(
    name="layers",
    title="Hand-over by layer against by request, by load",
    x=Quantity(name="prompts at once", unit="requests"),
    quantities=(
        Quantity(name="TTFT", unit="s"),
        Quantity(name="second_token", unit="s after the first"),
        Quantity(name="JCT", unit="s"),
    ),
)
SETTING = "one prefill and one decode instance; new prompts, sent all at once; the mode changes from batch to batch"
CONFIG = ServeConfig(cluster=ClusterSettings(prefill=1, decode=1), pool=PoolSettings(dram="1GiB"))
MODES = (TransferMode.BY_LAYER, TransferMode.BY_REQUEST)


class LayersPlan(msgspec.Struct, frozen=True, kw_only=True):
    loads: tuple[int, ...]
    num_rounds: int
    prompt_tokens: int = 512
    output_tokens: int = 8


PLANS = {
    Size.QUICK: LayersPlan(loads=(1, 4), num_rounds=2),
    Size.FULL: LayersPlan(loads=(1, 2, 4, 8), num_rounds=5),
}


async def run(errand: Errand) -> Answer:
    async with errand.served(CONFIG) as client:
        return await measure(client, PLANS[errand.size], errand.say)


async def measure(client: StudyClient, plan: LayersPlan, say: Say) -> Answer:
    """Rounds of every load; who goes first takes turns."""
    samples = Samples()
    await client.ask(client.prompt(plan.prompt_tokens), num_tokens=plan.output_tokens)
    turns = cycle((MODES, MODES[::-1]))
    for number in range(plan.num_rounds):
        for load in plan.loads:
            for mode in next(turns):
                await client.use_transfer(mode)
                prompts = [client.prompt(plan.prompt_tokens) for _ in range(load)]
                for timed in await client.ask_together(prompts, num_tokens=plan.output_tokens):
                    samples.add(mode, load, TTFT=timed.ttft_s, second_token=timed.gap_s, JCT=timed.jct_s)
        say(f"round {number + 1} of {plan.num_rounds}: {samples!r}")
    return Answer(points=samples.points())


STUDY = Study(question=QUESTION, setting=SETTING, run=run)

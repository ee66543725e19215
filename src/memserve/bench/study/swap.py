"""Prefixes that lie in DRAM or on disk against computing them again: from how many tokens on loading is faster.

One instance whose engine keeps nothing, so that every prefix comes from the pool. A round computes prompts of all
lengths, pushes them out of DRAM by computing others, then asks for each again twice: the first time its KV comes from
disk, the second time from DRAM. What the instance did not report as loaded from there is left out.
"""

import tempfile

import msgspec

from memserve.bench.child import Say
from memserve.bench.study.base import Errand, Study
from memserve.bench.study.client import StudyClient, Timed
from memserve.bench.study.record import Answer, Point, Quantity, Question, Samples, Size, crossover
from memserve.config import ClusterSettings, EngineSettings, PoolSettings, ServeConfig

QUESTION = Question(
    name="swap",
    title="Swap-in from DRAM and disk against recomputation",
    x=Quantity(name="prompt", unit="tokens"),
    quantities=(Quantity(name="TTFT", unit="s"),),
)
SETTING = (
    "one colocated instance without a cache of its own, 128 MiB of DRAM, disk in a temporary folder: what comes from "
    "disk may lie in the page cache"
)
RECOMPUTED, FROM_DRAM, FROM_DISK = "recomputed", "from DRAM", "from disk"


class SwapPlan(msgspec.Struct, frozen=True, kw_only=True):
    """All lengths together fit into DRAM below its mark, the fillers fill all of it: 128 MiB hold 2,900 tokens."""

    lengths: tuple[int, ...]
    num_rounds: int
    num_fillers: int = 2
    filler_tokens: int = 1600
    tail_tokens: int = 8
    """Asked beyond the prefix; always computed."""


PLANS = {
    Size.QUICK: SwapPlan(lengths=(32, 64, 128, 256, 512, 1024), num_rounds=2),
    Size.FULL: SwapPlan(lengths=(32, 64, 96, 128, 256, 512, 1024), num_rounds=6),
}


def config(folder: str) -> ServeConfig:
    """With the disk tier in `folder`."""
    return ServeConfig(
        cluster=ClusterSettings(colocated=1),
        pool=PoolSettings(dram="128MiB", disk=f"{folder}:2GiB"),
        engine=EngineSettings(args=("--no-enable-prefix-caching", "--max-model-len", "2048")),
    )


async def run(errand: Errand) -> Answer:
    with tempfile.TemporaryDirectory(prefix="memserve-study-") as folder:
        async with errand.served(config(folder)) as client:
            return await measure(client, PLANS[errand.size], errand.say)


async def measure(client: StudyClient, plan: SwapPlan, say: Say) -> Answer:
    """Rounds, each with prompts of its own."""
    samples = Samples()
    await client.ask(client.prompt(plan.lengths[0]))
    for number in range(plan.num_rounds):
        prompts = {length: client.prompt(length + plan.tail_tokens) for length in plan.lengths}
        for length, prompt in prompts.items():
            samples.add(RECOMPUTED, length, TTFT=(await client.ask(prompt)).ttft_s)
        for _ in range(plan.num_fillers):
            await client.ask(client.prompt(plan.filler_tokens))
        for length, prompt in prompts.items():
            for _ in (FROM_DISK, FROM_DRAM):
                timed = await client.ask(prompt)
                source = await _source(client, timed, length)
                if source:
                    samples.add(source, length, TTFT=timed.ttft_s)
        say(f"round {number + 1} of {plan.num_rounds}: {samples!r}")
    points = samples.points()
    return Answer(points=points, findings=tuple(_finding(points, source) for source in (FROM_DRAM, FROM_DISK)))


async def _source(client: StudyClient, timed: Timed, length: int) -> str:
    """The line that this answer belongs to; "" when its prefix came from several places."""
    report = await client.report(timed.request)
    if report is None:
        return ""
    return {report.dram_tokens: FROM_DRAM, report.disk_tokens: FROM_DISK}.get(length, "")


def _finding(points: tuple[Point, ...], source: str) -> str:
    tokens = crossover(points, quantity="TTFT", below=source, above=RECOMPUTED)
    if not any(point.series == source for point in points):
        return f"No prefix came {source}, so that nothing can be said about it."
    if tokens is None:
        return f"Loading {source} was not faster than computing at the longest prompt."
    if not tokens:
        return f"Loading {source} was faster than computing at every length."
    return f"Loading {source} was faster than computing from about {tokens:.0f} tokens on."


STUDY = Study(question=QUESTION, setting=SETTING, run=run)

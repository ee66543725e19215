"""Routing by what is cached against by session and by load: documents shared by several sessions, two instances."""

import asyncio
from itertools import product
from random import Random
from statistics import fmean

import msgspec

from memserve.bench.child import Say
from memserve.bench.study.base import Errand, Study
from memserve.bench.study.client import StudyClient
from memserve.bench.study.record import Answer, Quantity, Question, Samples, Size
from memserve.config import ClusterSettings, PoolSettings, ServeConfig

POLICIES = ("prompt-tree", "session", "least-load")
QUESTION = Question(
    name="routing",
    title="Routing policies, two instances, documents shared by three sessions each",
    x=Quantity(name="sessions at once", unit="requests"),
    quantities=(
        Quantity(name="TTFT_avg", unit="s"),
        Quantity(name="TTFT_longest", unit="s"),
        Quantity(name="computed", unit="prompt tokens a request"),
    ),
)
SETTING = "two colocated instances; every policy gets documents of its own, in the same order; pulling is on for all"
CONFIG = ServeConfig(cluster=ClusterSettings(colocated=2), pool=PoolSettings(dram="512MiB"))


class RoutingPlan(msgspec.Struct, frozen=True, kw_only=True):
    loads: tuple[int, ...]
    num_rounds: int
    num_documents: int = 3
    sessions_each: int = 3
    """The paper's share ratio."""
    questions_each: int = 1
    """That a session asks, one after the other."""
    document_tokens: int = 640
    question_tokens: int = 32
    output_tokens: int = 4


PLANS = {
    Size.QUICK: RoutingPlan(loads=(2,), num_rounds=2),
    Size.FULL: RoutingPlan(loads=(1, 2, 4), num_rounds=3, questions_each=2),
}


async def run(errand: Errand) -> Answer:
    async with errand.served(CONFIG) as client:
        return await measure(client, PLANS[errand.size], errand.say)


async def measure(client: StudyClient, plan: RoutingPlan, say: Say) -> Answer:
    """Rounds of every load, policies in turn."""
    samples = Samples()
    await client.ask_together([client.prompt(plan.document_tokens) for _ in range(2)], num_tokens=plan.output_tokens)
    for number in range(plan.num_rounds):
        for load, policy in product(plan.loads, POLICIES):
            await client.use_policy(policy)
            await _play(client, plan, load, samples, series=policy, name=f"{number} {load}", order=Random(number))  # noqa: S311
            say(f"round {number + 1} of {plan.num_rounds}, {load} at once, {policy}: {samples!r}")
    return Answer(points=samples.points())


async def _play(
    client: StudyClient, plan: RoutingPlan, load: int, samples: Samples, *, series: str, name: str, order: Random
) -> None:
    """All sessions, `load` of them at once: one sample of each quantity. Sessions are called alike for all policies."""
    documents = [client.prompt(plan.document_tokens) for _ in range(plan.num_documents)]
    sessions = list(product(range(plan.num_documents), range(plan.sessions_each)))
    order.shuffle(sessions)
    room = asyncio.Semaphore(load)
    ttft_s: list[float] = []
    computed: list[int] = []

    async def session(document: int, number: int) -> None:
        async with room:
            for _ in range(plan.questions_each):
                prompt = [*documents[document], *client.prompt(plan.question_tokens)]
                timed = await client.ask(prompt, num_tokens=plan.output_tokens, session=f"{name} {document} {number}")
                report = await client.report(timed.request)
                ttft_s.append(timed.ttft_s)
                computed.extend([report.computed_tokens] if report is not None else [])

    async with asyncio.TaskGroup() as group:
        for document, number in sessions:
            group.create_task(session(document, number))
    samples.add(series, load, TTFT_avg=fmean(ttft_s), TTFT_longest=max(ttft_s))
    if len(computed) == len(ttft_s):
        samples.add(series, load, computed=fmean(computed))


STUDY = Study(question=QUESTION, setting=SETTING, run=run)

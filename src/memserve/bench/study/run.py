"""The studies by name, and one run of one: what it needs is started, and a report is made of its answer.

Owns the life of the cluster under a study. How settings become a cluster that can start is handed in.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp

from memserve.bench.child import Say
from memserve.bench.records import now, this_command, this_commit, this_machine
from memserve.bench.study import layers, layout, prefill, routing, routing_simulated, swap
from memserve.bench.study.base import Errand, Served, Study
from memserve.bench.study.client import StudyClient
from memserve.bench.study.record import Size, StudyReport
from memserve.config import GatewaySettings, ServeConfig
from memserve.core.clock import SystemClock
from memserve.core.errors import ConfigError
from memserve.serving.cluster import running_cluster
from memserve.serving.prepare import PreparedRun

STUDIES: dict[str, Study] = {
    module.STUDY.question.name: module.STUDY for module in (prefill, layers, layout, routing, routing_simulated, swap)
}


async def run_study(name: str, *, size: Size, seed: int, say: Say, served: Served) -> StudyReport:
    """Raises ConfigError for a study that there is not or that came to nothing, and what the study raises."""
    study = STUDIES.get(name)
    if study is None:
        raise ConfigError(f'there is no study "{name}": choose one of {", ".join(STUDIES)}')
    answer = await study.run(Errand(size=size, seed=seed, say=say, served=served))
    if not answer.points:
        reasons = "; ".join(f"{missing.system}: {missing.reason}" for missing in answer.missing) or "no reason is known"
        raise ConfigError(f"the study {name} measured nothing: {reasons}")
    return StudyReport(
        bench=f"study {name}",
        started=now(),
        machine=this_machine(),
        missing=answer.missing,
        command=this_command(),
        commit=this_commit(),
        question=study.question,
        size=size,
        seed=seed,
        setting=study.setting,
        results=answer.points,
        findings=answer.findings,
    )


def served_here(prepared: Callable[[ServeConfig], PreparedRun], *, seed: int, say: Say) -> Served:
    """Starts clusters on this machine, with a gateway on a free port."""

    @asynccontextmanager
    async def served(config: ServeConfig) -> AsyncIterator[StudyClient]:
        run = prepared(ServeConfig(cluster=config.cluster, pool=config.pool, engine=config.engine, gateway=_ANY_PORT))
        say(f"starting {run.model_name}: about a minute")
        async with running_cluster(run) as cluster, aiohttp.ClientSession() as http:
            say(f"serving at {cluster.url}")
            yield StudyClient(url=cluster.url, model=cluster.model, http=http, clock=SystemClock(), seed=seed)

    return served


_ANY_PORT = GatewaySettings(port=0)

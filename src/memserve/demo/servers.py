"""The demo's two servers: a cluster of one prefill and one decode instance, and plain vLLM.

Owns how plain vLLM is made from the same launch plan: same model, data type, block size and threads, but no
connector and no prefix caching. Each runs for the length of a block, never both at once.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import msgspec

from memserve.config import ClusterSettings, EngineSettings, GatewaySettings, PoolSettings, ServeConfig
from memserve.core.errors import ConfigError, DeadlineExceeded
from memserve.demo.stage import Served
from memserve.manager.child import Child, start
from memserve.manager.health import is_healthy
from memserve.manager.launch_plan import LaunchSpec
from memserve.serving.cluster import running_cluster
from memserve.serving.prepare import PreparedRun

_CONNECTOR = "--kv-transfer-config"
_NO_CACHING = "--no-enable-prefix-caching"
_START_DEADLINE_S = 300.0
_POLL_S = 0.5


def demo_config() -> ServeConfig:
    """One prefill and one decode instance of the bundled model on a free port, with pools for a small machine."""
    return ServeConfig(
        cluster=ClusterSettings(prefill=1, decode=1), gateway=GatewaySettings(port=0), pool=PoolSettings(dram="512MiB")
    )


def plain_spec(run: PreparedRun) -> LaunchSpec:
    """One vLLM as the run would start it, without memserve in it and without prefix caching."""
    alone = msgspec.structs.replace(
        run.config,
        cluster=ClusterSettings(colocated=1),
        engine=EngineSettings(args=(*run.config.engine.args, _NO_CACHING)),
    )
    spec = msgspec.structs.replace(run, config=alone).plan(manager_endpoint="").specs[0]
    at = spec.argv.index(_CONNECTOR)
    return msgspec.structs.replace(spec, argv=spec.argv[:at] + spec.argv[at + 2 :])


class DemoServers:
    """Both servers of one prepared run."""

    def __init__(self, run: PreparedRun) -> None:
        self._run = run

    @asynccontextmanager
    async def ours(self) -> AsyncIterator[Served]:
        async with running_cluster(self._run) as cluster:
            yield Served(url=cluster.url, model=cluster.model)

    @asynccontextmanager
    async def plain(self) -> AsyncIterator[Served]:
        """Raises ConfigError with the reason from its log when it ends while starting."""
        spec = plain_spec(self._run)
        child = await start(spec, self._run.machine)
        try:
            await _until_ready(child)
            yield Served(url=spec.url, model=self._run.model_name)
        finally:
            await child.stop()


async def _until_ready(child: Child) -> None:
    ended = asyncio.create_task(child.wait(), name="plain vLLM")
    try:
        async with asyncio.timeout(_START_DEADLINE_S), aiohttp.ClientSession() as http:
            while not await is_healthy(http, child.spec.url):
                done, _ = await asyncio.wait({ended}, timeout=_POLL_S)
                if done:
                    raise ConfigError(f"plain vLLM ended: {await child.why_it_ended()}; its log is {child.spec.log}")
    except TimeoutError as error:
        raise DeadlineExceeded(
            f"plain vLLM is not ready after {_START_DEADLINE_S:.0f} s; its log is {child.spec.log}"
        ) from error
    finally:
        ended.cancel()

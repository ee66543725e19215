"""The demo's two servers: a cluster of one prefill and one decode instance, and plain vLLM without prefix caching.

Each runs for the length of a block, never both at once.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from memserve.config import ClusterSettings, GatewaySettings, PoolSettings, ServeConfig
from memserve.demo.stage import Served
from memserve.serving.cluster import running_cluster
from memserve.serving.plain_vllm import plain_specs, running
from memserve.serving.prepare import PreparedRun

_NO_CACHING = "--no-enable-prefix-caching"


def demo_config() -> ServeConfig:
    """One prefill and one decode instance of the bundled model on a free port, with pools for a small machine."""
    return ServeConfig(
        cluster=ClusterSettings(prefill=1, decode=1), gateway=GatewaySettings(port=0), pool=PoolSettings(dram="512MiB")
    )


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
        specs = plain_specs(self._run, count=1, args=(_NO_CACHING,))
        async with running(specs, self._run.machine):
            yield Served(url=specs[0].url, model=self._run.model_name)

"""vLLM servers without memserve in them, to measure against: same model, data type, block size, threads and cores.

Owns how they are made from the launch plan of a prepared run, and their life: all up inside the block, none after.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
import msgspec

from memserve.config import ClusterSettings, EngineSettings
from memserve.core.errors import ConfigError, DeadlineExceeded
from memserve.manager.child import Child, start
from memserve.manager.health import is_healthy
from memserve.manager.launch_plan import LaunchSpec
from memserve.manager.machine import Machine
from memserve.serving.prepare import PreparedRun

START_DEADLINE_S = 300.0

_CONNECTOR = "--kv-transfer-config"
_POLL_S = 0.5


def plain_specs(run: PreparedRun, *, count: int, args: Sequence[str]) -> tuple[LaunchSpec, ...]:
    """So many vLLM servers as the run would start them, each with `args` and no connector of ours."""
    alone = msgspec.structs.replace(
        run.config,
        cluster=ClusterSettings(colocated=count),
        engine=EngineSettings(args=(*run.config.engine.args, *args)),
    )
    specs = msgspec.structs.replace(run, config=alone).plan(manager_endpoint="").specs
    return tuple(_without_connector(spec) for spec in specs)


@asynccontextmanager
async def running(specs: Sequence[LaunchSpec], machine: Machine) -> AsyncIterator[tuple[Child[LaunchSpec], ...]]:
    """All of them started at once and healthy inside the block.

    Raises ConfigError with the reason from its log when one ends while starting, DeadlineExceeded.
    """
    async with AsyncExitStack() as stack:
        children = []
        for spec in specs:
            child = await start(spec, machine)
            stack.push_async_callback(child.stop)
            children.append(child)
        for child in children:
            await _until_ready(child)
        yield tuple(children)


def _without_connector(spec: LaunchSpec) -> LaunchSpec:
    at = spec.argv.index(_CONNECTOR)
    return msgspec.structs.replace(spec, argv=spec.argv[:at] + spec.argv[at + 2 :])


async def _until_ready(child: Child[LaunchSpec]) -> None:
    name = child.spec.instance
    ended = asyncio.create_task(child.wait(), name=f"end of {name}")
    try:
        async with asyncio.timeout(START_DEADLINE_S), aiohttp.ClientSession() as http:
            while not await is_healthy(http, child.spec.url):
                done, _ = await asyncio.wait({ended}, timeout=_POLL_S)
                if done:
                    raise ConfigError(f"{name} ended: {await child.why_it_ended()}")
    except TimeoutError as error:
        raise DeadlineExceeded(
            f"{name} is not ready after {START_DEADLINE_S:.0f} s; its log is {child.spec.log}"
        ) from error
    finally:
        ended.cancel()

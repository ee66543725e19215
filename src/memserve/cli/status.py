"""`memserve status`: the cluster as the gateway sees it, as tables; reads /admin/cluster and /admin/paths."""

import asyncio
from collections.abc import Sequence

import aiohttp
import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from memserve.cli.sizes import size_text
from memserve.cluster.view import ClusterView, InstanceView
from memserve.core.errors import InstanceUnavailable
from memserve.gateway.pool_routes import InstancePaths
from memserve.wire.messages import PathCheck

_DEADLINE_S = 5.0


class _Paths(msgspec.Struct, frozen=True, kw_only=True):
    paths: tuple[InstancePaths, ...]


class _Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """The part of the answer that is shown."""

    view: ClusterView
    path_checks: tuple[PathCheck, ...] = ()


def show_status(url: str) -> None:
    """Print one row an instance. Raises InstanceUnavailable when no gateway answers at `url`."""
    cluster, paths = asyncio.run(_read(url.rstrip("/")))
    view = cluster.view
    console = Console(highlight=False)
    console.print(f"cluster of {len(view.instances)} instances, epoch {view.epoch}")
    console.print(render(view))
    if paths:
        console.print(render_paths(paths))
    for line in paths_text(cluster.path_checks):
        console.print(line, markup=False, soft_wrap=True)


def paths_text(checks: tuple[PathCheck, ...]) -> list[str]:
    """How many ways between the instances work, and a line for each that was tried out and does not."""
    tried = [check for check in checks if check.is_possible and check.answered]
    if not tried:
        return []
    wrong = [check for check in tried if not check.is_right]
    lines = [f"paths between instances: {len(tried) - len(wrong)} of {len(tried)} brought a block over as it was"]
    return lines + [f"  NOT {check.source} -> {check.target} by {check.path}: {check.fault}" for check in wrong]


def render(view: ClusterView) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False)
    for heading in ("instance", "role", "state", "URL", "running", "waiting", "pool cached/all"):
        table.add_column(heading, no_wrap=heading != "URL", overflow="fold")  # what gives way where lines are short
    for instance in view.instances:
        table.add_row(*_cells(instance))
    return table


def render_paths(paths: Sequence[InstancePaths]) -> Table:
    """One row for each instance and each one that it exchanges KV with."""
    table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False)
    for heading in ("instance", "KV with", "pulls by", "hands over by"):
        table.add_column(heading, no_wrap=True)
    for path in paths:
        table.add_row(path.instance, path.peer, path.reads or "no path", path.writes or "no path")
    return table


def _cells(instance: InstanceView) -> tuple[str, ...]:
    block_bytes = instance.peer.identity.block_bytes
    pool = "\n".join(
        f"{tier.tier.name} {tier.num_cached} / {tier.num_blocks} ({size_text(tier.num_blocks * block_bytes)})"
        for tier in instance.load.pool
    )
    return (
        instance.instance,
        instance.role,
        instance.state,
        instance.url or "-",
        str(instance.load.num_running),
        str(instance.load.num_waiting),
        pool or "-",
    )


async def _read(url: str) -> tuple[_Cluster, tuple[InstancePaths, ...]]:
    try:
        timeout = aiohttp.ClientTimeout(total=_DEADLINE_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            cluster = msgspec.json.decode(await _get(session, f"{url}/admin/cluster"), type=_Cluster)
            paths = msgspec.json.decode(await _get(session, f"{url}/admin/paths"), type=_Paths)
            return cluster, paths.paths
    except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError) as error:
        raise InstanceUnavailable(
            f"no memserve gateway answers at {url} ({error or type(error).__name__}); "
            "name the right one: memserve status --url URL"
        ) from error


async def _get(session: aiohttp.ClientSession, target: str) -> bytes:
    async with session.get(target) as answer:
        if answer.status != 200:
            raise InstanceUnavailable(f"{target} answered {answer.status}; is this a memserve gateway?")
        return await answer.read()

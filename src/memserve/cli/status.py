"""`memserve status`: the cluster as the gateway sees it, as a table. Owns the reading of /admin/cluster."""

import asyncio

import aiohttp
import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from memserve.cluster.view import ClusterView, InstanceView
from memserve.core.errors import InstanceUnavailable

_DEADLINE_S = 5.0


class _Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """The part of the answer that is shown."""

    view: ClusterView


def show_status(url: str) -> None:
    """Print one row an instance. Raises InstanceUnavailable when no gateway answers at `url`."""
    view = asyncio.run(_read(url.rstrip("/")))
    console = Console(highlight=False)
    console.print(f"cluster of {len(view.instances)} instances, epoch {view.epoch}")
    console.print(render(view))


def render(view: ClusterView) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False)
    for heading in ("instance", "role", "state", "URL", "running", "waiting", "pool cached/all"):
        table.add_column(heading, no_wrap=True)
    for instance in view.instances:
        table.add_row(*_cells(instance))
    return table


def _cells(instance: InstanceView) -> tuple[str, ...]:
    pool = ", ".join(f"{tier.tier.name} {tier.num_cached} / {tier.num_blocks}" for tier in instance.load.pool)
    return (
        instance.instance,
        instance.role,
        instance.state,
        instance.url or "-",
        str(instance.load.num_running),
        str(instance.load.num_waiting),
        pool or "-",
    )


async def _read(url: str) -> ClusterView:
    target = f"{url}/admin/cluster"
    try:
        timeout = aiohttp.ClientTimeout(total=_DEADLINE_S)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(target) as answer:
            body = await answer.read()
            if answer.status != 200:
                raise InstanceUnavailable(f"{target} answered {answer.status}; is this a memserve gateway?")
            return msgspec.json.decode(body, type=_Cluster).view
    except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError) as error:
        raise InstanceUnavailable(
            f"no memserve gateway answers at {url} ({error or type(error).__name__}); "
            "name the right one: memserve status --url URL"
        ) from error
